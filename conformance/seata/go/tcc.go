package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/seata/seata-go/pkg/rm/tcc/fence"
	"github.com/seata/seata-go/pkg/tm"
)

// failNext is how many of the next phase-two calls the business fails.
var failNext atomic.Int64

// What the two actions are asked for; the tags hand it on to phase two.
type reservation struct {
	Account int   `tccParam:"account"`
	Amount  int64 `tccParam:"amount"`
}

// action is one of the two TCC actions of a transfer, under the client's fence. Its SQL takes amounts and the account.
type action struct {
	name                     string
	db                       *sql.DB
	reserve, confirm, cancel string
}

func debit(db *sql.DB) *action {
	return &action{"settleGoDebit", db,
		"UPDATE tcc_account SET balance = balance - ?, frozen = frozen + ? WHERE id = ? AND balance >= ?",
		"UPDATE tcc_account SET frozen = frozen - ? WHERE id = ?",
		"UPDATE tcc_account SET balance = balance + ?, frozen = frozen - ? WHERE id = ?"}
}

func credit(db *sql.DB) *action {
	return &action{"settleGoCredit", db,
		"UPDATE tcc_account SET incoming = incoming + ? WHERE id = ?",
		"UPDATE tcc_account SET balance = balance + ?, incoming = incoming - ? WHERE id = ?",
		"UPDATE tcc_account SET incoming = incoming - ? WHERE id = ?"}
}

func (a *action) GetActionName() string {
	return a.name
}

func (a *action) Prepare(ctx context.Context, params interface{}) (bool, error) {
	asked := params.(*reservation)
	err := a.fenced(ctx, func(tx *sql.Tx) error {
		return update(tx, a.reserve, asked.Account, asked.Amount)
	})
	return err == nil, err
}

func (a *action) Commit(ctx context.Context, called *tm.BusinessActionContext) (bool, error) {
	return a.end(ctx, called, "confirm", a.confirm)
}

func (a *action) Rollback(ctx context.Context, called *tm.BusinessActionContext) (bool, error) {
	return a.end(ctx, called, "cancel", a.cancel)
}

func (a *action) end(ctx context.Context, called *tm.BusinessActionContext, kind, statement string) (bool, error) {
	if failNext.Add(-1) >= 0 {
		event("business-failed", fields{"kind": kind, "xid": called.Xid, "branch": called.BranchId})
		return false, errors.New("the business fails as it was asked to")
	}
	failNext.CompareAndSwap(-1, 0)
	account := int(called.ActionContext["account"].(float64))
	amount := int64(called.ActionContext["amount"].(float64))
	// The client's fence calls the business also when there is nothing left to be done, or was nothing: it tells that only
	// by what is in its table.
	isTried := false
	err := a.fencedAfter(ctx, func(tx *sql.Tx) error {
		var status int
		row := tx.QueryRow("SELECT status FROM tcc_fence_log WHERE xid = ? AND branch_id = ? FOR UPDATE", called.Xid, called.BranchId)
		err := row.Scan(&status)
		isTried = err == nil && status == 1
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	}, func(tx *sql.Tx) error {
		if !isTried {
			return nil
		}
		return update(tx, statement, account, amount)
	})
	return err == nil, err
}

func (a *action) fenced(ctx context.Context, business func(*sql.Tx) error) error {
	return a.fencedAfter(ctx, func(*sql.Tx) error { return nil }, business)
}

// fencedAfter runs the business and the fence in one transaction of the database, after a look at what is there.
func (a *action) fencedAfter(ctx context.Context, look, business func(*sql.Tx) error) error {
	tx, err := a.db.Begin()
	if err != nil {
		return err
	}
	if err = look(tx); err == nil {
		err = fence.WithFence(ctx, tx, func() error { return business(tx) })
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func update(tx *sql.Tx, statement string, account int, amount int64) error {
	values := []any{amount}
	placeholders := 0
	for _, char := range statement {
		if char == '?' {
			placeholders++
		}
	}
	switch placeholders {
	case 2:
		values = []any{amount, account}
	case 3:
		values = []any{amount, amount, account}
	default:
		values = []any{amount, amount, account, amount}
	}
	result, err := tx.Exec(statement, values...)
	if err != nil {
		return err
	}
	if changed, err := result.RowsAffected(); err != nil || changed != 1 {
		return fmt.Errorf("%d rows of account %d were changed: %v", changed, account, err)
	}
	return nil
}
