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

INSERT INTO account (id, balance) SELECT seq, 1000 FROM seq_1_to_1000;
INSERT INTO tcc_account (id, balance) SELECT seq, 1000 FROM seq_1_to_1000;
