package settle.conformance;

import ${seata.package}.rm.tcc.api.BusinessActionContext;
import ${seata.package}.rm.tcc.api.BusinessActionContextParameter;
import ${seata.package}.rm.tcc.api.LocalTCC;
import ${seata.package}.rm.tcc.api.TwoPhaseBusinessAction;

/** The two TCC actions of a transfer, both under the client's fence. */
final class TccAccount {
    private TccAccount() {
    }

    /** Takes money: reserve moves it to `frozen`, confirm drops it from there, cancel moves it back. */
    @LocalTCC
    public interface Debit {
        @TwoPhaseBusinessAction(name = "settleDebit", commitMethod = "confirm", rollbackMethod = "cancel", useTCCFence = true)
        boolean reserve(BusinessActionContext context,
                        @BusinessActionContextParameter(paramName = "account") int account,
                        @BusinessActionContextParameter(paramName = "amount") long amount);

        boolean confirm(BusinessActionContext context);

        boolean cancel(BusinessActionContext context);
    }

    /** Gives money: reserve notes it in `incoming`, confirm moves it to the balance, cancel forgets it. */
    @LocalTCC
    public interface Credit {
        @TwoPhaseBusinessAction(name = "settleCredit", commitMethod = "confirm", rollbackMethod = "cancel", useTCCFence = true)
        boolean reserve(BusinessActionContext context,
                        @BusinessActionContextParameter(paramName = "account") int account,
                        @BusinessActionContextParameter(paramName = "amount") long amount);

        boolean confirm(BusinessActionContext context);

        boolean cancel(BusinessActionContext context);
    }
}
