package settle.conformance;

import ${seata.package}.rm.tcc.api.BusinessActionContext;
import ${seata.package}.rm.tcc.api.BusinessActionContextParameter;
import ${seata.package}.rm.tcc.api.LocalTCC;
import ${seata.package}.saga.rm.api.CompensationBusinessAction;

import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;

/** A transfer of annotated actions: each is done at once and has a compensation. In clients since 2.3. */
public final class Annotated implements Bank.Accounts {
    private final Debit debit;
    private final Credit credit;

    private Annotated(Debit debit, Credit credit) {
        this.debit = debit;
        this.credit = credit;
    }

    /** Called by its name, as older clients lack the annotation. */
    public static void register(AnnotationConfigApplicationContext context, JdbcTemplate jdbc) {
        context.registerBean("annotatedDebit", Debit.class,
            () -> new DebitAction(jdbc, context.getBean(DataSourceTransactionManager.class)));
        context.registerBean("annotatedCredit", Credit.class,
            () -> new CreditAction(jdbc, context.getBean(DataSourceTransactionManager.class)));
    }

    public static Bank.Accounts of(AnnotationConfigApplicationContext context) {
        return new Annotated(context.getBean(Debit.class), context.getBean(Credit.class));
    }

    @Override
    public void debit(int account, long amount) {
        debit.take(null, account, amount);
    }

    @Override
    public void credit(int account, long amount) {
        credit.give(null, account, amount);
    }

    @LocalTCC
    public interface Debit {
        @CompensationBusinessAction(name = "annotatedDebit", compensationMethod = "giveBack")
        boolean take(BusinessActionContext context, @BusinessActionContextParameter(paramName = "account") int account,
                     @BusinessActionContextParameter(paramName = "amount") long amount);

        boolean giveBack(BusinessActionContext context);
    }

    @LocalTCC
    public interface Credit {
        @CompensationBusinessAction(name = "annotatedCredit", compensationMethod = "takeBack")
        boolean give(BusinessActionContext context, @BusinessActionContextParameter(paramName = "account") int account,
                     @BusinessActionContextParameter(paramName = "amount") long amount);

        boolean takeBack(BusinessActionContext context);
    }

    public static class DebitAction implements Debit {
        private final JdbcTemplate jdbc;
        private final TransactionTemplate local;

        DebitAction(JdbcTemplate jdbc, DataSourceTransactionManager manager) {
            this.jdbc = jdbc;
            this.local = new TransactionTemplate(manager);
        }

        @Override
        public boolean take(BusinessActionContext context, @BusinessActionContextParameter(paramName = "account") int account,
                            @BusinessActionContextParameter(paramName = "amount") long amount) {
            return move(jdbc, account, -amount);
        }

        @Override
        public boolean giveBack(BusinessActionContext context) {
            return undo(jdbc, local, context, 1);
        }
    }

    public static class CreditAction implements Credit {
        private final JdbcTemplate jdbc;
        private final TransactionTemplate local;

        CreditAction(JdbcTemplate jdbc, DataSourceTransactionManager manager) {
            this.jdbc = jdbc;
            this.local = new TransactionTemplate(manager);
        }

        @Override
        public boolean give(BusinessActionContext context, @BusinessActionContextParameter(paramName = "account") int account,
                            @BusinessActionContextParameter(paramName = "amount") long amount) {
            return move(jdbc, account, amount);
        }

        @Override
        public boolean takeBack(BusinessActionContext context) {
            return undo(jdbc, local, context, -1);
        }
    }

    private static boolean move(JdbcTemplate jdbc, int account, long by) {
        return jdbc.update("UPDATE tcc_account SET balance = balance + ? WHERE id = ?", by, account) == 1;
    }

    /** Counts once for its branch: a call may be repeated. */
    private static boolean undo(JdbcTemplate jdbc, TransactionTemplate local, BusinessActionContext context, int sign) {
        int account = Integer.parseInt(String.valueOf(context.getActionContext("account")));
        long amount = Long.parseLong(String.valueOf(context.getActionContext("amount")));
        String id = context.getXid() + " " + context.getBranchId();
        local.executeWithoutResult(status -> {
            if (jdbc.update("INSERT IGNORE INTO saga_step (id, step, undone) VALUES (?, 'annotated', 1)", id) == 1) {
                move(jdbc, account, sign * amount);
            }
        });
        return true;
    }
}
