package settle.conformance;

import java.util.ArrayList;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Supplier;

import ${seata.package}.core.model.BranchType;
import ${seata.package}.core.model.ResourceManager;
import ${seata.package}.core.protocol.transaction.AbstractBranchEndRequest;
import ${seata.package}.core.protocol.transaction.AbstractBranchEndResponse;
import ${seata.package}.core.protocol.transaction.BranchCommitRequest;
import ${seata.package}.core.protocol.transaction.BranchCommitResponse;
import ${seata.package}.core.protocol.transaction.BranchRollbackRequest;
import ${seata.package}.core.protocol.transaction.BranchRollbackResponse;
import ${seata.package}.core.protocol.transaction.UndoLogDeleteRequest;
import ${seata.package}.rm.AbstractRMHandler;
import ${seata.package}.rm.DefaultRMHandler;

/**
 * Stands between the client's dispatcher ({@link DefaultRMHandler}) and the handler of one branch type. It reports every
 * phase-two call as it arrives and as it is answered, and can hold calls unanswered; the client's own handling is unchanged.
 */
final class PhaseTwoTap extends AbstractRMHandler {
    private static final AtomicLong CALLS = new AtomicLong();
    /** Closed while calls are to be held; null when they pass. */
    private static volatile CountDownLatch barrier;

    private final AbstractRMHandler real;

    private PhaseTwoTap(AbstractRMHandler real) {
        this.real = real;
    }

    /** Reaches the dispatcher's protected table, which is the client's own extension point for branch types. */
    private abstract static class Table extends DefaultRMHandler {
        static Map<BranchType, AbstractRMHandler> handlers() {
            return allRMHandlersMap;
        }
    }

    /** Wraps the handler of every branch type; call once, after the client is initialised. */
    static void install() {
        DefaultRMHandler.get();
        Map<BranchType, AbstractRMHandler> handlers = Table.handlers();
        for (BranchType type : new ArrayList<>(handlers.keySet())) {
            handlers.put(type, new PhaseTwoTap(handlers.get(type)));
        }
    }

    /** From now on calls stand still on arrival, until {@link #release()}. */
    static synchronized void hold() {
        if (barrier == null) {
            barrier = new CountDownLatch(1);
        }
    }

    /** Lets all held calls and all later ones pass. */
    static synchronized void release() {
        if (barrier != null) {
            barrier.countDown();
            barrier = null;
        }
    }

    private <T extends AbstractBranchEndResponse> T tapped(String kind, AbstractBranchEndRequest request, Supplier<T> handle) {
        long call = CALLS.incrementAndGet();
        CountDownLatch held = barrier;
        Wire.event("phase2-call", "call", call, "kind", kind, "xid", request.getXid(), "branch", request.getBranchId(),
            "type", request.getBranchType().name(), "held", held != null);
        if (held != null) {
            try {
                held.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
        T response = handle.get();
        Wire.event("phase2-answer", "call", call, "kind", kind, "xid", request.getXid(), "branch", request.getBranchId(),
            "status", String.valueOf(response.getBranchStatus()), "result", String.valueOf(response.getResultCode()));
        return response;
    }

    @Override
    public BranchCommitResponse handle(BranchCommitRequest request) {
        return tapped("commit", request, () -> real.handle(request));
    }

    @Override
    public BranchRollbackResponse handle(BranchRollbackRequest request) {
        return tapped("rollback", request, () -> real.handle(request));
    }

    @Override
    public void handle(UndoLogDeleteRequest request) {
        real.handle(request);
    }

    @Override
    public BranchType getBranchType() {
        return real.getBranchType();
    }

    @Override
    protected ResourceManager getResourceManager() {
        throw new IllegalStateException("the wrapped handler has the resource manager");
    }
}
