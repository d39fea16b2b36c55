package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/seata/seata-go/pkg/datasource/sql/datasource"
	"github.com/seata/seata-go/pkg/datasource/sql/types"
	"github.com/seata/seata-go/pkg/protocol/branch"
	"github.com/seata/seata-go/pkg/rm"
)

// tap stands before the client's own resource manager. It reports every phase-two call as it arrives and as it is
// answered, and can hold calls unanswered; what is done for them is the client's.
type tap struct {
	rm.ResourceManager
	kind string
}

var (
	calls   atomic.Int64
	holding sync.Mutex
	// Closed when held calls may pass; nil while none are to be held.
	barrier chan struct{}
)

func hold() {
	holding.Lock()
	defer holding.Unlock()
	if barrier == nil {
		barrier = make(chan struct{})
	}
}

func release() {
	holding.Lock()
	defer holding.Unlock()
	if barrier != nil {
		close(barrier)
		barrier = nil
	}
}

func installTaps() {
	cache := rm.GetRmCacheInstance()
	names := map[branch.BranchType]string{branch.BranchTypeAT: "AT", branch.BranchTypeTCC: "TCC", branch.BranchTypeXA: "XA"}
	for kind, name := range names {
		cache.RegisterResourceManager(&tap{cache.GetResourceManager(kind), name})
	}
}

type end func(context.Context, rm.BranchResource) (branch.BranchStatus, error)

func (t *tap) through(ctx context.Context, kind string, resource rm.BranchResource, do end) (branch.BranchStatus, error) {
	call := calls.Add(1)
	holding.Lock()
	held := barrier
	holding.Unlock()
	event("phase2-call", fields{"call": call, "kind": kind, "xid": resource.Xid, "branch": resource.BranchId,
		"type": t.kind, "held": held != nil})
	if held != nil {
		<-held
	}
	status, err := do(ctx, resource)
	answer := statusName(status)
	if err != nil {
		// This client then answers nothing, and is called again when the server has waited long enough.
		answer = "Failed: " + err.Error()
	}
	event("phase2-answer", fields{"call": call, "kind": kind, "xid": resource.Xid, "branch": resource.BranchId,
		"status": answer})
	return status, err
}

func (t *tap) BranchCommit(ctx context.Context, resource rm.BranchResource) (branch.BranchStatus, error) {
	return t.through(ctx, "commit", resource, t.ResourceManager.BranchCommit)
}

func (t *tap) BranchRollback(ctx context.Context, resource rm.BranchResource) (branch.BranchStatus, error) {
	return t.through(ctx, "rollback", resource, t.ResourceManager.BranchRollback)
}

// CreateTableMetaCache makes it a manager of data sources, as which the client looks for it.
func (t *tap) CreateTableMetaCache(ctx context.Context, id string, kind types.DBType, db *sql.DB) (datasource.TableMetaCache, error) {
	manager, ok := t.ResourceManager.(datasource.DataSourceManager)
	if !ok {
		return nil, fmt.Errorf("%s has no data sources", t.kind)
	}
	return manager.CreateTableMetaCache(ctx, id, kind, db)
}

func statusName(status branch.BranchStatus) string {
	switch status {
	case branch.BranchStatusPhasetwoCommitted:
		return "PhaseTwo_Committed"
	case branch.BranchStatusPhasetwoRollbacked:
		return "PhaseTwo_Rollbacked"
	case branch.BranchStatusPhasetwoCommitFailedRetryable:
		return "PhaseTwo_CommitFailed_Retryable"
	case branch.BranchStatusPhasetwoRollbackFailedRetryable:
		return "PhaseTwo_RollbackFailed_Retryable"
	case branch.BranchStatusPhasetwoRollbackFailedUnretryable:
		return "PhaseTwo_RollbackFailed_Unretryable"
	default:
		return fmt.Sprint("Status ", byte(status))
	}
}
