-- Run once in each bank database. undo_log and tcc_fence_log are the tables that Seata documents for its clients
-- (script/client/at/db/mysql.sql and script/client/tcc/db/mysql.sql of v1.8.0).
CREATE TABLE account (
  id      INT    NOT NULL PRIMARY KEY,
  balance BIGINT NOT NULL
) ENGINE = InnoDB;

CREATE TABLE tcc_account (
  id       INT    NOT NULL PRIMARY KEY,
  balance  BIGINT NOT NULL,
  frozen   BIGINT NOT NULL DEFAULT 0,
  incoming BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;

CREATE TABLE undo_log (
  branch_id     BIGINT       NOT NULL,
  xid           VARCHAR(128) NOT NULL,
  context       VARCHAR(128) NOT NULL,
  rollback_info LONGBLOB     NOT NULL,
  log_status    INT(11)      NOT NULL,
  log_created   DATETIME(6)  NOT NULL,
  log_modified  DATETIME(6)  NOT NULL,
  UNIQUE KEY ux_undo_log (xid, branch_id),
  KEY ix_log_created (log_created)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE tcc_fence_log (
  xid          VARCHAR(128) NOT NULL,
  branch_id    BIGINT       NOT NULL,
  action_name  VARCHAR(64)  NOT NULL,
  status       TINYINT      NOT NULL,
  gmt_create   DATETIME(3)  NOT NULL,
  gmt_modified DATETIME(3)  NOT NULL,
  PRIMARY KEY (xid, branch_id),
  KEY idx_gmt_modified (gmt_modified),
  KEY idx_status (status)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT INTO account (id, balance) SELECT seq, 1000 FROM seq_1_to_10000;
INSERT INTO tcc_account (id, balance) SELECT seq, 1000 FROM seq_1_to_10000;

-- For tellers of two kinds on the same rows: a composite key, whose columns the clients order by themselves, and what they
-- keep in forms of their own. Whole seconds, since the Java client puts back no others.
CREATE TABLE order_line (
  order_id BIGINT         NOT NULL,
  product  VARCHAR(20)    NOT NULL,
  amount   INT            NOT NULL,
  price    DECIMAL(10, 2) NOT NULL,
  rush     TINYINT(1)     NOT NULL DEFAULT 0,
  weight   DOUBLE,
  placed   DATETIME(6),
  stamped  TIMESTAMP(3)   NULL,
  due      DATE,
  at       TIME,
  label    VARBINARY(20),
  note     TEXT,
  total    DECIMAL(20, 2) AS (amount * price) VIRTUAL,
  PRIMARY KEY (order_id, product)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT INTO order_line (order_id, product, amount, price, rush, weight, placed, stamped, due, at, label, note) VALUES
  (1, 'tea', 2, 3.50, 1, 0.1, '2024-02-29 12:34:56', '2024-02-29 12:34:57', '2024-02-29', '23:59:59', x'00ff', 'ä "x" \\'),
  (1, 'cup', 1, 0.00, 0, NULL, '2024-02-29 12:34:56', NULL, NULL, NULL, NULL, NULL),
  (2, 'tea', 5, 3.50, 0, 1e300, NULL, NULL, NULL, NULL, '', '');

-- What the bank's own sagas have done, so that each step and each undoing of one counts once.
CREATE TABLE saga_step (
  id     VARCHAR(200) NOT NULL,
  step   VARCHAR(16)  NOT NULL,
  undone TINYINT      NOT NULL,
  PRIMARY KEY (id, step)
) ENGINE = InnoDB;

-- The tables in which the state machine of Seata's clients keeps its sagas (script/client/saga/db/mysql.sql of v1.8.0).
CREATE TABLE seata_state_machine_def (
  id               VARCHAR(32)  NOT NULL PRIMARY KEY,
  name             VARCHAR(128) NOT NULL,
  tenant_id        VARCHAR(32)  NOT NULL,
  app_name         VARCHAR(32)  NOT NULL,
  type             VARCHAR(20),
  comment_         VARCHAR(255),
  ver              VARCHAR(16)  NOT NULL,
  gmt_create       DATETIME(3)  NOT NULL,
  status           VARCHAR(2)   NOT NULL,
  content          TEXT,
  recover_strategy VARCHAR(16)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE seata_state_machine_inst (
  id                  VARCHAR(128) NOT NULL PRIMARY KEY,
  machine_id          VARCHAR(32)  NOT NULL,
  tenant_id           VARCHAR(32)  NOT NULL,
  parent_id           VARCHAR(128),
  gmt_started         DATETIME(3)  NOT NULL,
  business_key        VARCHAR(48),
  start_params        TEXT,
  gmt_end             DATETIME(3),
  excep               BLOB,
  end_params          TEXT,
  status              VARCHAR(2),
  compensation_status VARCHAR(2),
  is_running          TINYINT(1),
  gmt_updated         DATETIME(3)  NOT NULL,
  UNIQUE KEY unikey_buz_tenant (business_key, tenant_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE seata_state_inst (
  id                       VARCHAR(48)  NOT NULL,
  machine_inst_id          VARCHAR(128) NOT NULL,
  name                     VARCHAR(128) NOT NULL,
  type                     VARCHAR(20),
  service_name             VARCHAR(128),
  service_method           VARCHAR(128),
  service_type             VARCHAR(16),
  business_key             VARCHAR(48),
  state_id_compensated_for VARCHAR(50),
  state_id_retried_for     VARCHAR(50),
  gmt_started              DATETIME(3)  NOT NULL,
  is_for_update            TINYINT(1),
  input_params             TEXT,
  output_params            TEXT,
  status                   VARCHAR(2)   NOT NULL,
  excep                    BLOB,
  gmt_updated              DATETIME(3),
  gmt_end                  DATETIME(3),
  PRIMARY KEY (id, machine_inst_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
