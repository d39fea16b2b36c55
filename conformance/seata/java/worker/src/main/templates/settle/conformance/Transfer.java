package settle.conformance;

import ${seata.package}.common.DefaultValues;
import ${seata.package}.core.context.RootContext;
import ${seata.package}.core.exception.TransactionException;
import ${seata.package}.core.model.GlobalStatus;
import ${seata.package}.tm.api.GlobalTransactionContext;
import ${seata.package}.tm.api.TransactionalExecutor;
import ${seata.package}.tm.api.TransactionalTemplate;
import ${seata.package}.tm.api.transaction.TransactionInfo;

import com.alibaba.fastjson.JSONObject;

/**
 * One global transaction: debit one account, credit another, in AT or TCC mode, or any SQL in AT, through the client's own
 * {@link TransactionalTemplate} (what {@code @GlobalTransactional} runs). Reports what the business was told.
 */
final class Transfer implements Runnable, TransactionalExecutor {
    private static final TransactionalTemplate TEMPLATE = new TransactionalTemplate();
    private static final boolean COMMIT_IS_BLIND = ${commit.blind};

    private final Bank bank;
    private final JSONObject command;
    private final String id;
    private volatile String xid;
    /** When the business handed over to the client's commit or rollback. */
    private volatile long endStartNanos;

    /** Thrown by the business itself: the reason of an ordinary rollback. */
    static final class BusinessRefused extends Exception {
        BusinessRefused(String message) {
            super(message);
        }
    }

    Transfer(Bank bank, JSONObject command) {
        this.bank = bank;
        this.command = command;
        this.id = command.getString("id");
    }

    @Override
    public TransactionInfo getTransactionInfo() {
        TransactionInfo info = new TransactionInfo();
        info.setName("transfer-" + id);
        if (command.containsKey("timeout_ms")) {
            info.setTimeOut(command.getIntValue("timeout_ms"));
        } else {
            info.setTimeOut(DefaultValues.DEFAULT_GLOBAL_TRANSACTION_TIMEOUT);
        }
        return info;
    }

    @Override
    public void run() {
        Gates.ask(id);
        long start = System.nanoTime();
        endStartNanos = start;
        if ("saga".equals(command.getString("mode"))) {
            runSaga(start);
            return;
        }
        String told;
        String detail = null;
        try {
            TEMPLATE.execute(this);
            told = COMMIT_IS_BLIND ? outcome() : "committed";
        } catch (TransactionalExecutor.ExecutionException e) {
            told = e.getCode().name();
            Throwable why = e.getCause() != null ? e.getCause() : e.getOriginalException();
            detail = chain(why);
        } catch (Throwable e) {
            told = "exception";
            detail = chain(e);
        }
        long now = System.nanoTime();
        Wire.event("done", "id", id, "xid", xid, "told", told, "detail", detail,
            "total_ms", (now - start) / 1_000_000, "end_ms", (now - endStartNanos) / 1_000_000);
    }

    /** What a business has to ask for whose client takes any answer to a commit for success. */
    private String outcome() throws TransactionException {
        GlobalStatus status = GlobalTransactionContext.reload(xid).getStatus();
        return switch (status.name()) {
            case "Committing", "CommitRetrying", "AsyncCommitting", "Committed" -> "committed";
            case "Rollbacked", "TimeoutRollbacked" -> "RollbackDone";
            case "Rollbacking", "RollbackRetrying", "TimeoutRollbacking", "TimeoutRollbackRetrying" -> "Rollbacking";
            default -> "status " + status;
        };
    }

    private void runSaga(long start) {
        String told;
        String detail;
        try {
            String[] end = bank.sagas.run(command);
            xid = end[0];
            told = end[1];
            detail = end[2];
        } catch (Throwable e) {
            told = "exception";
            detail = chain(e);
        }
        long now = System.nanoTime();
        Wire.event("done", "id", id, "xid", xid, "told", told, "detail", detail,
            "total_ms", (now - start) / 1_000_000, "end_ms", 0);
    }

    @Override
    public Object execute() throws Throwable {
        xid = RootContext.getXID();
        try {
            pauseAt("begun");
            if (command.containsKey("statements")) {
                bank.run(command.getJSONArray("statements").toJavaList(String.class));
            } else {
                move();
            }
            pauseAt("registered");
            if (command.getBooleanValue("refuse")) {
                throw new BusinessRefused("the business refuses transfer " + id);
            }
            return null;
        } finally {
            endStartNanos = System.nanoTime();
        }
    }

    private void move() throws Exception {
        int from = command.getIntValue("from");
        int to = command.getIntValue("to");
        long amount = command.getLongValue("amount");
        Bank.Accounts accounts = bank.accounts(command.getString("mode"));
        accounts.debit(from, amount);
        accounts.credit(to, amount);
    }

    private void pauseAt(String point) throws Exception {
        if (command.getJSONArray("pause") == null || !command.getJSONArray("pause").contains(point)) {
            return;
        }
        if ("abort".equals(Gates.pause(id, point, xid))) {
            throw new BusinessRefused("aborted at " + point);
        }
    }

    private static String chain(Throwable e) {
        StringBuilder text = new StringBuilder();
        for (int depth = 0; e != null && depth < 5; e = e.getCause(), depth++) {
            text.append(depth == 0 ? "" : " <- ").append(e.getClass().getSimpleName()).append(": ").append(e.getMessage());
        }
        return text.toString();
    }
}
