// A bank over two databases under seata-go, driven line by line. Nothing is configured but the address, the transaction
// group and the data sources.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/seata/seata-go/pkg/client"
	seatasql "github.com/seata/seata-go/pkg/datasource/sql"
	"github.com/seata/seata-go/pkg/protocol/message"
	"github.com/seata/seata-go/pkg/rm/tcc"
	"github.com/seata/seata-go/pkg/tm"
)

type command struct {
	Cmd       string
	Id        string
	Mode      string
	From, To  int
	Amount    int64
	Refuse    bool
	Pause     []string
	TimeoutMs int64 `json:"timeout_ms"`
	N         int64
}

type bank struct {
	// Both databases under the client's AT, and under its XA.
	at, xa        [2]*sql.DB
	debit, credit *tcc.TCCServiceProxy
}

// Arguments: the client's configuration, and the names of both databases as the driver for MySQL has them.
func main() {
	protectStdout()
	client.InitPath(os.Args[1])
	installTaps()
	opened, err := openBank(os.Args[2], os.Args[3])
	if err != nil {
		complain(err)
		os.Exit(1)
	}
	event("ready", fields{"pid": os.Getpid(), "client": "seata-go", "config": fields{}})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked command
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			complain(err)
			continue
		}
		switch asked.Cmd {
		case "transfer":
			go opened.transfer(&asked)
		case "go", "abort":
			open(asked.Id, asked.Cmd)
		case "hold":
			hold()
		case "release":
			release()
		case "fail-next":
			failNext.Store(asked.N)
		default:
			complain(errors.New("unknown command " + asked.Cmd))
		}
		event("ok", fields{"cmd": asked.Cmd})
	}
}

func openBank(nameA, nameB string) (*bank, error) {
	const options = "?multiStatements=true&interpolateParams=true&parseTime=true"
	var opened bank
	for index, name := range []string{nameA, nameB} {
		var err error
		if opened.at[index], err = sql.Open(seatasql.SeataATMySQLDriver, name+options); err != nil {
			return nil, err
		}
		if opened.xa[index], err = sql.Open(seatasql.SeataXAMySQLDriver, name+options); err != nil {
			return nil, err
		}
		// The client takes a connection that had a branch for busy with it for ever (`XAConn.xaActive`), so none is used again.
		opened.xa[index].SetMaxIdleConns(-1)
	}
	raw, err := sql.Open("mysql", nameA+options)
	if err != nil {
		return nil, err
	}
	if opened.debit, err = tcc.NewTCCServiceProxy(debit(raw)); err != nil {
		return nil, err
	}
	opened.credit, err = tcc.NewTCCServiceProxy(credit(raw))
	return &opened, err
}

func (b *bank) transfer(asked *command) {
	var transaction *tm.GlobalTransaction
	config := &tm.GtxConfig{Name: "settle-go-" + asked.Id, Timeout: time.Duration(asked.TimeoutMs) * time.Millisecond}
	err := tm.WithGlobalTx(context.Background(), config, func(ctx context.Context) error {
		transaction = tm.GetTx(ctx)
		return b.business(ctx, asked, transaction.Xid)
	})
	done := fields{"id": asked.Id, "told": told(transaction, err), "xid": "", "detail": fmt.Sprint(err)}
	if transaction != nil {
		done["xid"] = transaction.Xid
		done["detail"] = fmt.Sprintf("status %d: %v", transaction.TxStatus, err)
	}
	event("done", done)
}

func (b *bank) business(ctx context.Context, asked *command, xid string) error {
	if err := asked.pauseAt("begun", xid); err != nil {
		return err
	}
	if err := b.move(ctx, asked); err != nil {
		return err
	}
	if err := asked.pauseAt("registered", xid); err != nil {
		return err
	}
	if asked.Refuse {
		return errors.New("the business refuses transfer " + asked.Id)
	}
	return nil
}

func (b *bank) move(ctx context.Context, asked *command) error {
	switch asked.Mode {
	case "at", "xa":
		banks := b.at
		if asked.Mode == "xa" {
			banks = b.xa
		}
		if err := change(ctx, banks[0], "UPDATE account SET balance = balance - ? WHERE id = ?", asked.Amount, asked.From); err != nil {
			return err
		}
		return change(ctx, banks[1], "UPDATE account SET balance = balance + ? WHERE id = ?", asked.Amount, asked.To)
	case "tcc":
		if _, err := b.debit.Prepare(ctx, &reservation{asked.From, asked.Amount}); err != nil {
			return err
		}
		_, err := b.credit.Prepare(ctx, &reservation{asked.To, asked.Amount})
		return err
	default:
		return errors.New("no mode " + asked.Mode)
	}
}

func change(ctx context.Context, db *sql.DB, statement string, amount int64, account int) error {
	result, err := db.ExecContext(ctx, statement, amount, account)
	if err != nil {
		return err
	}
	if changed, err := result.RowsAffected(); err != nil || changed != 1 {
		return fmt.Errorf("%d rows of account %d were changed: %v", changed, account, err)
	}
	return nil
}

func (asked *command) pauseAt(point, xid string) error {
	for _, wanted := range asked.Pause {
		if wanted == point && pause(asked.Id, point, xid) == "abort" {
			return errors.New("aborted at " + point)
		}
	}
	return nil
}

// told is how the transaction ended. The client's template drops the status that the server answered with, so that a
// commit of what was rolled back looks like one; whoever wants to know has to look at the transaction.
func told(transaction *tm.GlobalTransaction, err error) string {
	if transaction == nil {
		return "BeginFailure"
	}
	switch transaction.TxStatus {
	case message.GlobalStatusCommitting, message.GlobalStatusCommitRetrying, message.GlobalStatusAsyncCommitting,
		message.GlobalStatusCommitted:
		return "committed"
	case message.GlobalStatusRollbacked, message.GlobalStatusTimeoutRollbacked:
		return "RollbackDone"
	case message.GlobalStatusRollbacking, message.GlobalStatusRollbackRetrying, message.GlobalStatusTimeoutRollbacking,
		message.GlobalStatusTimeoutRollbackRetrying:
		return "Rollbacking"
	default:
		if err == nil {
			return fmt.Sprint("status ", transaction.TxStatus)
		}
		return "Failure"
	}
}
