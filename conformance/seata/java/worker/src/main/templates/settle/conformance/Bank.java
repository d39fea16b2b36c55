package settle.conformance;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

import javax.sql.DataSource;

import com.alibaba.fastjson.JSON;
import com.alibaba.fastjson.JSONObject;
import com.mysql.cj.jdbc.MysqlDataSource;

import ${seata.package}.config.ConfigurationFactory;
import ${seata.package}.core.context.RootContext;
import ${seata.package}.rm.datasource.DataSourceProxy;
import ${seata.package}.rm.datasource.xa.DataSourceProxyXA;
import ${seata.package}.spring.annotation.GlobalTransactionScanner;

import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;

/**
 * A bank over two databases, driven line by line. The client is started by its own {@link GlobalTransactionScanner}, with
 * nothing configured but addresses, transaction group and data sources.
 */
public final class Bank {
    private static final String APPLICATION = "settle-bank";
    private static final String GROUP = "default_tx_group";

    private static final boolean HAS_ANNOTATED = ${saga.annotation};

    /** How one mode takes money and gives it. */
    interface Accounts {
        void debit(int account, long amount) throws Exception;

        void credit(int account, long amount) throws Exception;
    }

    private final Map<String, Accounts> modes = new HashMap<>();
    final Sagas sagas;

    private Bank(Sagas sagas) {
        this.sagas = sagas;
    }

    Accounts accounts(String mode) {
        return modes.get(mode);
    }

    /** Runs SQL in one local transaction of the first bank, under the client's AT. */
    void run(List<String> statements) throws SQLException {
        try (Connection connection = ((Sql) modes.get("at")).bankA.getConnection()) {
            connection.setAutoCommit(false);
            for (String sql : statements) {
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    statement.executeUpdate();
                }
            }
            connection.commit();
        }
    }

    /** Arguments: the JDBC URLs of the two banks, and the global timeout of sagas in ms. */
    public static void main(String[] args) throws Exception {
        Wire.protectStdout();
        DataSource rawA = dataSource(args[0]);
        DataSource rawB = dataSource(args[1]);
        int sagaTimeoutMs = Integer.parseInt(args[2]);

        AnnotationConfigApplicationContext context = new AnnotationConfigApplicationContext();
        context.registerBean(GlobalTransactionScanner.class, () -> new GlobalTransactionScanner(APPLICATION, GROUP));
        context.registerBean(DataSourceTransactionManager.class, () -> new DataSourceTransactionManager(rawA));
        // The fence has one data source per process, so both TCC actions work on the first bank.
        context.registerBean(${fence.config}.class,
            () -> new ${fence.config}(rawA, context.getBean(DataSourceTransactionManager.class)));
        context.registerBean("settleDebitAction", TccAccount.Debit.class, () -> new TccActions.DebitAction(new JdbcTemplate(rawA)));
        context.registerBean("settleCreditAction", TccAccount.Credit.class, () -> new TccActions.CreditAction(new JdbcTemplate(rawA)));
        context.registerBean("sagaAccounts", Sagas.Accounts.class,
            () -> new Sagas.Accounts(new JdbcTemplate(rawA), context.getBean(DataSourceTransactionManager.class)));
        if (HAS_ANNOTATED) {
            annotated("register", new Class<?>[] {AnnotationConfigApplicationContext.class, JdbcTemplate.class},
                context, new JdbcTemplate(rawA));
        }
        context.refresh();

        Bank bank = new Bank(new Sagas(context, rawA, APPLICATION, GROUP, sagaTimeoutMs));
        // The last of them sets the mode of transactions that name none, which only AT looks at.
        bank.modes.put("xa", new Sql(new DataSourceProxyXA(rawA), new DataSourceProxyXA(rawB)));
        bank.modes.put("at", new Sql(new DataSourceProxy(rawA), new DataSourceProxy(rawB)));
        bank.modes.put("tcc", new Tcc(context.getBean(TccAccount.Debit.class), context.getBean(TccAccount.Credit.class)));
        if (HAS_ANNOTATED) {
            bank.modes.put("annotated",
                (Accounts) annotated("of", new Class<?>[] {AnnotationConfigApplicationContext.class}, context));
        }
        PhaseTwoTap.install();
        Wire.event("ready", "pid", ProcessHandle.current().pid(), "client", clientVersion(), "config", effectiveConfig());
        bank.serve();
        // The client's threads are not daemons, and a bank that is told to leave leaves.
        System.exit(0);
    }

    private void serve() throws Exception {
        ExecutorService transfers = Executors.newCachedThreadPool();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JSONObject command = JSON.parseObject(line);
            switch (command.getString("cmd")) {
                case "transfer" -> transfers.execute(new Transfer(this, command));
                case "go" -> Gates.open(command.getString("id"), "go");
                case "abort" -> Gates.open(command.getString("id"), "abort");
                case "hold" -> PhaseTwoTap.hold();
                case "release" -> PhaseTwoTap.release();
                case "fail-next" -> TccActions.failNext(command.getString("xid"), command.getIntValue("n"));
                case "exit" -> {
                    return;
                }
                default -> Wire.event("error", "message", "unknown command " + line);
            }
            Wire.event("ok", "cmd", command.getString("cmd"));
        }
    }

    /** Plain SQL over two data sources of the client: what AT and XA have in common. */
    private record Sql(DataSource bankA, DataSource bankB) implements Accounts {
        @Override
        public void debit(int account, long amount) throws SQLException {
            update(bankA, "UPDATE account SET balance = balance - ? WHERE id = ?", amount, account);
        }

        @Override
        public void credit(int account, long amount) throws SQLException {
            update(bankB, "UPDATE account SET balance = balance + ? WHERE id = ?", amount, account);
        }
    }

    private record Tcc(TccAccount.Debit from, TccAccount.Credit to) implements Accounts {
        @Override
        public void debit(int account, long amount) {
            from.reserve(null, account, amount);
        }

        @Override
        public void credit(int account, long amount) {
            to.reserve(null, account, amount);
        }
    }

    private static Object annotated(String method, Class<?>[] types, Object... args) throws Exception {
        return Class.forName("settle.conformance.Annotated").getMethod(method, types).invoke(null, args);
    }

    private static void update(DataSource bank, String sql, long amount, int account) throws SQLException {
        try (Connection connection = bank.getConnection(); PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setLong(1, amount);
            statement.setInt(2, account);
            if (statement.executeUpdate() != 1) {
                throw new SQLException("no account " + account);
            }
        }
    }

    private static DataSource dataSource(String url) {
        MysqlDataSource source = new MysqlDataSource();
        source.setUrl(url);
        source.setUser("settle");
        source.setPassword("settle");
        return source;
    }

    private static String clientVersion() {
        return ${seata.package}.core.protocol.Version.getCurrent();
    }

    /** What the client itself reads, for the keys that matter here; null means that the client's default is in force. */
    private static Map<String, Object> effectiveConfig() {
        Map<String, Object> config = new TreeMap<>();
        for (String key : new String[] {
            "service.vgroupMapping." + GROUP, "service.default.grouplist", "transport.serialization", "transport.compressor",
            "transport.protocol", "transport.heartbeat", "transport.rpcRmRequestTimeout", "transport.rpcTmRequestTimeout",
            "transport.enableRmClientBatchSendRequest", "transport.enableTmClientBatchSendRequest",
            "client.loadBalance.type", "client.tm.commitRetryCount", "client.tm.rollbackRetryCount",
            "client.tm.defaultGlobalTransactionTimeout", "client.rm.lock.retryTimes", "client.rm.lock.retryInterval",
            "client.rm.reportRetryCount", "client.undo.logSerialization", "client.undo.dataValidation"}) {
            config.put(key, ConfigurationFactory.getInstance().getConfig(key));
        }
        config.put("branch type outside a transaction", String.valueOf(RootContext.getBranchType()));
        return config;
    }
}
