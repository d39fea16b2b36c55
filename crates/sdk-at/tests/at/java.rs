//! Undo logs that Java's AT wrote are taken back as Java would have done it. They were captured from its database by
//! `cargo xtask conformance seata --case at-beside-rust --record-undo DIR`, where the other way is tried too.

use std::fmt::Write;

use anyhow::{Context, Result};
use settle_sdk::BranchStatus;
use settle_sdk_at::Zone;
use settle_seata_wire::{BranchEnd, BranchType, Message};

use crate::{
    bank::{Bank, RESOURCE},
    fake,
};

const SCHEMA: &str = include_str!("../../../../conformance/seata/schema.sql");
/// Transaction, branch, context and content of one row each.
const BRANCHES: [&str; 2] = [
    include_str!("../../../../conformance/seata/vectors/undo/branch-1.8.0.txt"),
    include_str!("../../../../conformance/seata/vectors/undo/branch-2.6.0.txt"),
];
/// What was committed before, and what Java's branch did then (`xtask/src/conformance/beside.rs`).
const BEFORE: &str = "UPDATE order_line SET amount = amount + 1 WHERE order_id = 2 AND product = 'tea'";
const CHANGES: [&str; 5] = [
    "UPDATE order_line SET amount = amount + 1, placed = '2025-01-01 00:00:05', due = NULL WHERE order_id = 1",
    "DELETE FROM order_line WHERE order_id = 1 AND product = 'tea'",
    "INSERT INTO order_line (order_id, product, amount, price, rush, stamped) \
     VALUES (3, 'pot', 1, 20.00, 1, '2025-01-01 00:00:25'), (3, 'lid', 2, 0.99, 0, NULL)",
    "UPDATE order_line SET note = 'it''s changed', label = x'ff00', weight = 0.3 WHERE product = 'tea'",
    "UPDATE order_line SET price = price * 2 WHERE order_id = 3",
];

/// The statements of the schema that are about one table.
fn schema() -> String {
    let about = |statement: &&str| statement.contains("order_line");
    SCHEMA.split_inclusive(";\n").filter(about).collect()
}

async fn roll_back(bank: &Bank, xid: &str, branch_id: i64) -> Result<BranchStatus> {
    let call = BranchEnd {
        xid: xid.to_owned(),
        branch_id,
        branch_type: BranchType::At,
        resource_id: RESOURCE.to_owned(),
        application_data: String::new(),
    };
    fake::status(bank.fake.call(Message::BranchRollback(call)).await?).await
}

#[tokio::test]
async fn what_java_did_is_taken_back_however_its_undo_log_is_kept() -> Result<()> {
    let schema = schema();
    let Some(bank) = Bank::with(&[&schema], |options| options.zone = Some(Zone::UTC)).await? else {
        return Ok(());
    };
    bank.sql(BEFORE).await?;
    let before = bank.dump(&["order_line"]).await?;
    for branch in BRANCHES {
        let fields: Vec<&str> = branch.trim_end_matches('\n').splitn(4, '\t').collect();
        let [xid, branch_id, context, content] = fields[..] else {
            anyhow::bail!("four fields make a row");
        };
        let branch_id: i64 = branch_id.parse()?;
        // In one piece as Java wrote it, and in three as it writes a long one.
        for parts in [1, 3] {
            for sql in CHANGES {
                bank.sql(sql).await?;
            }
            assert_ne!(bank.dump(&["order_line"]).await?, before);
            let size = content.len().div_ceil(parts);
            let pieces: Vec<&[u8]> = content.as_bytes().chunks(size).collect();
            let mut context = context.to_owned();
            if parts > 1 {
                context.push_str("&subId=");
                for part in 1..pieces.len() {
                    write!(context, "{part},")?;
                }
            }
            let insert = "INSERT INTO undo_log VALUES (?, ?, ?, ?, 0, NOW(6), NOW(6))";
            let sub = format!("branchId={branch_id}");
            for (n, piece) in pieces.iter().enumerate() {
                let (id, context) = if n == 0 {
                    (branch_id, &context)
                } else {
                    (n as i64, &sub)
                };
                let insert = sqlx::query(insert).bind(id).bind(xid).bind(context).bind(*piece);
                insert.execute(&bank.pool).await.context("insert Java's undo log")?;
            }
            let status = roll_back(&bank, xid, branch_id).await?;
            assert_eq!(status, BranchStatus::PhaseTwoRollbacked, "{branch_id} in {parts}");
            assert_eq!(bank.dump(&["order_line"]).await?, before);
            assert_eq!(bank.undo_logs().await?, 0);
        }

        // What cannot be read is left for who can.
        for (context, content) in [("serializer=kryo&compressorType=NONE", content), (context, "{}")] {
            let insert = "INSERT INTO undo_log VALUES (?, ?, ?, ?, 0, NOW(6), NOW(6))";
            let insert = sqlx::query(insert)
                .bind(branch_id)
                .bind(xid)
                .bind(context)
                .bind(content.as_bytes());
            insert.execute(&bank.pool).await?;
            let status = roll_back(&bank, xid, branch_id).await?;
            assert_eq!(status, BranchStatus::PhaseTwoRollbackFailedRetryable);
            assert_eq!(bank.undo_logs().await?, 1);
            bank.sql("DELETE FROM undo_log").await?;
        }
    }
    bank.close().await;
    Ok(())
}
