package settle.conformance;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

import ${seata.package}.rm.tcc.api.BusinessActionContext;
import ${seata.package}.rm.tcc.api.BusinessActionContextParameter;

import org.springframework.jdbc.core.JdbcTemplate;

/** The SQL behind the TCC actions. It runs inside the local transaction in which the fence writes its row. */
class TccActions {
    /** How many of the next phase-two calls of a transaction the business answers with `false` (retryable failure). */
    private static final Map<String, AtomicInteger> FAIL_NEXT = new ConcurrentHashMap<>();

    private TccActions() {
    }

    static void failNext(String xid, int n) {
        FAIL_NEXT.put(xid, new AtomicInteger(n));
    }

    private static boolean apply(JdbcTemplate jdbc, BusinessActionContext context, String kind, String sql) {
        AtomicInteger toFail = FAIL_NEXT.get(context.getXid());
        if (toFail != null && toFail.getAndUpdate(n -> n > 0 ? n - 1 : 0) > 0) {
            Wire.event("business-failed", "kind", kind, "xid", context.getXid(), "branch", context.getBranchId());
            return false;
        }
        int account = Integer.parseInt(String.valueOf(context.getActionContext("account")));
        long amount = Long.parseLong(String.valueOf(context.getActionContext("amount")));
        Object[] values = sql.chars().filter(c -> c == '?').count() == 3
            ? new Object[] {amount, amount, account} : new Object[] {amount, account};
        if (jdbc.update(sql, values) != 1) {
            throw new IllegalStateException("no account " + account);
        }
        return true;
    }

    private static boolean reserve(JdbcTemplate jdbc, String sql, Object... values) {
        if (jdbc.update(sql, values) != 1) {
            throw new IllegalStateException("the account cannot be reserved");
        }
        return true;
    }

    /** See {@link TccAccount.Debit}. */
    public static class DebitAction implements TccAccount.Debit {
        private final JdbcTemplate jdbc;

        DebitAction(JdbcTemplate jdbc) {
            this.jdbc = jdbc;
        }

        // 1.8 reads the parameters' names from the interface, 2.x from the implementation.
        @Override
        public boolean reserve(BusinessActionContext context,
                               @BusinessActionContextParameter(paramName = "account") int account,
                               @BusinessActionContextParameter(paramName = "amount") long amount) {
            return TccActions.reserve(jdbc,
                "UPDATE tcc_account SET balance = balance - ?, frozen = frozen + ? WHERE id = ? AND balance >= ?",
                amount, amount, account, amount);
        }

        @Override
        public boolean confirm(BusinessActionContext context) {
            return apply(jdbc, context, "confirm", "UPDATE tcc_account SET frozen = frozen - ? WHERE id = ?");
        }

        @Override
        public boolean cancel(BusinessActionContext context) {
            return apply(jdbc, context, "cancel",
                "UPDATE tcc_account SET balance = balance + ?, frozen = frozen - ? WHERE id = ?");
        }
    }

    /** See {@link TccAccount.Credit}. */
    public static class CreditAction implements TccAccount.Credit {
        private final JdbcTemplate jdbc;

        CreditAction(JdbcTemplate jdbc) {
            this.jdbc = jdbc;
        }

        // 1.8 reads the parameters' names from the interface, 2.x from the implementation.
        @Override
        public boolean reserve(BusinessActionContext context,
                               @BusinessActionContextParameter(paramName = "account") int account,
                               @BusinessActionContextParameter(paramName = "amount") long amount) {
            return TccActions.reserve(jdbc, "UPDATE tcc_account SET incoming = incoming + ? WHERE id = ?", amount, account);
        }

        @Override
        public boolean confirm(BusinessActionContext context) {
            return apply(jdbc, context, "confirm",
                "UPDATE tcc_account SET balance = balance + ?, incoming = incoming - ? WHERE id = ?");
        }

        @Override
        public boolean cancel(BusinessActionContext context) {
            return apply(jdbc, context, "cancel", "UPDATE tcc_account SET incoming = incoming - ? WHERE id = ?");
        }
    }
}
