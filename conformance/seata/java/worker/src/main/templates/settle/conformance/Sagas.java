package settle.conformance;

import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

import javax.sql.DataSource;

import ${seata.package}.core.context.RootContext;
import ${seata.package}.saga.engine.config.DbStateMachineConfig;
import ${seata.package}.saga.engine.impl.ProcessCtrlStateMachineEngine;
import ${seata.package}.saga.engine.repo.StateMachineRepository;
import ${seata.package}.saga.rm.StateMachineEngineHolder;
import ${seata.package}.saga.statelang.domain.ExecutionStatus;
import ${seata.package}.saga.statelang.domain.StateMachine;
import ${seata.package}.saga.statelang.domain.StateMachineInstance;
import ${seata.package}.saga.statelang.parser.StateMachineParserFactory;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;

import org.springframework.context.ApplicationContext;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;

/** Transfers as a state machine (transfer.json), which the client keeps in its database and drives by itself. */
final class Sagas {
    private final ProcessCtrlStateMachineEngine engine;

    /** `timeoutMs` is the global timeout of its sagas. */
    Sagas(ApplicationContext context, DataSource raw, String application, String group, int timeoutMs) throws Exception {
        DbStateMachineConfig config = new DbStateMachineConfig();
        config.setDataSource(raw);
        config.setApplicationContext(context);
        config.setApplicationId(application);
        config.setTxServiceGroup(group);
        config.setTransOperationTimeout(timeoutMs);
        config.afterPropertiesSet();
        String json;
        try (var in = Sagas.class.getResourceAsStream("transfer.json")) {
            json = new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }
        StateMachine machine = StateMachineParserFactory.getStateMachineParser(null).parse(json);
        machine.setContent(json);
        machine.setTenantId(config.getDefaultTenantId());
        // Its name has changed between versions.
        for (Method method : StateMachineRepository.class.getMethods()) {
            if (Arrays.equals(method.getParameterTypes(), new Class<?>[] {StateMachine.class})) {
                method.invoke(config.getStateMachineRepository(), machine);
            }
        }
        engine = new ProcessCtrlStateMachineEngine();
        engine.setStateMachineConfig(config);
        new StateMachineEngineHolder().setStateMachineEngine(engine);
    }

    /** Runs one transfer to its end; gives what the business was told. */
    String[] run(JSONObject command) {
        Map<String, Object> params = new HashMap<>();
        params.put("id", command.getString("id"));
        params.put("from", command.getIntValue("from"));
        params.put("to", command.getIntValue("to"));
        params.put("amount", command.getLongValue("amount"));
        params.put("refuse", command.getBooleanValue("refuse"));
        params.put("pause", command.getJSONArray("pause") == null ? "" : command.getJSONArray("pause").toJSONString());
        StateMachineInstance instance = engine.start("transfer", null, params);
        String told;
        if (ExecutionStatus.SU.equals(instance.getStatus()) && instance.getCompensationStatus() == null) {
            told = "committed";
        } else {
            told = ExecutionStatus.SU.equals(instance.getCompensationStatus()) ? "RollbackDone" : "Rollbacking";
        }
        String detail = instance.getStatus() + "/" + instance.getCompensationStatus()
            + (instance.getException() == null ? "" : " " + instance.getException());
        return new String[] {instance.getId(), told, detail};
    }

    /** The services behind the states. Each step and each undoing of one counts once, however often it is called. */
    public static class Accounts {
        private final JdbcTemplate jdbc;
        private final TransactionTemplate local;

        Accounts(JdbcTemplate jdbc, DataSourceTransactionManager manager) {
            this.jdbc = jdbc;
            this.local = new TransactionTemplate(manager);
        }

        public boolean debit(String id, int account, long amount, String pause) throws Exception {
            pauseAt(id, "begun", pause);
            return once(id, "debit", account, -amount);
        }

        public boolean credit(String id, int account, long amount, boolean refuse, String pause) throws Exception {
            once(id, "credit", account, amount);
            pauseAt(id, "registered", pause);
            if (refuse) {
                throw new IllegalStateException("the business refuses transfer " + id);
            }
            return true;
        }

        public boolean undoDebit(String id, int account, long amount) {
            return undo(id, "debit", account, amount);
        }

        public boolean undoCredit(String id, int account, long amount) {
            return undo(id, "credit", account, -amount);
        }

        private boolean once(String id, String step, int account, long by) {
            local.executeWithoutResult(status -> {
                if (jdbc.update("INSERT IGNORE INTO saga_step (id, step, undone) VALUES (?, ?, 0)", id, step) == 1) {
                    jdbc.update("UPDATE tcc_account SET balance = balance + ? WHERE id = ?", by, account);
                }
            });
            return true;
        }

        /** A step that was never done is noted as undone, so that it cannot come later. */
        private boolean undo(String id, String step, int account, long by) {
            local.executeWithoutResult(status -> {
                if (jdbc.update("UPDATE saga_step SET undone = 1 WHERE id = ? AND step = ? AND undone = 0", id, step) == 1) {
                    jdbc.update("UPDATE tcc_account SET balance = balance + ? WHERE id = ?", by, account);
                } else {
                    jdbc.update("INSERT IGNORE INTO saga_step (id, step, undone) VALUES (?, ?, 1)", id, step);
                }
            });
            return true;
        }

        private static void pauseAt(String id, String at, String pause) throws Exception {
            // A state machine that another client carries on is nobody's transfer: it does not pause.
            if (pause != null && !pause.isEmpty() && JSONArray.parseArray(pause).contains(at) && Gates.knows(id)) {
                if ("abort".equals(Gates.pause(id, at, RootContext.getXID()))) {
                    throw new IllegalStateException("aborted at " + at);
                }
            }
        }
    }
}
