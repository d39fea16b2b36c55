//! A server that asks operators who they are.

use anyhow::{Context, Result, ensure};
use settle_testkit::{Cluster, Scratch};

use crate::{SOON, operators::ctl, spec, who_may_connect::logged};

/// `printf %s … | sha256sum` of "ada's token" and "bob's token".
const ADA: &str = "c4d52281fd97e022c2e2cf2315073ac141fa3aafacd3fc958c287d4a24dca01a";
const BOB: &str = "e1fc7832d069d75663ffb753cfa7192b8938879efc81576042bbebdb8d73ffe6";

#[tokio::test]
async fn an_operator_shows_his_token_and_signs_with_his_own_name() -> Result<()> {
    let scratch = Scratch::new()?;
    let folder = scratch.path();
    let (file, ada, bob) = (folder.join("operators.toml"), folder.join("ada"), folder.join("bob"));
    let operators = format!(
        "[[operator]]\nname = \"ada\"\ntoken-sha256 = \"{ADA}\"\nmay = \"act\"\n\
         [[operator]]\nname = \"bob\"\ntoken-sha256 = \"{BOB}\"\nmay = \"read\"\n"
    );
    std::fs::write(&file, &operators)?;
    std::fs::write(&ada, "ada's token\n")?;
    std::fs::write(&bob, "bob's token\n")?;
    let spec = spec(1)
        .set("auth.operators", &format!("{:?}", file.display().to_string()))
        .set("auth.reload-every", "\"100ms\"");
    let cluster = Cluster::start(spec).await?;
    let tm = crate::connect_tm(cluster.tx(1), SOON).await?;
    let xid = tm.begin("left behind", 60_000).await?;
    let of = |path: &std::path::Path| path.display().to_string();
    let (ada, bob) = (of(&ada), of(&bob));

    let (code, told) = ctl(&cluster, "nobody", &["tx", "list"]).await?;
    assert!(code == 1 && told.contains("AP0008"), "{told}");
    let (code, told) = ctl(&cluster, "bob-reads", &["--token-file", &bob, "tx", "list"]).await?;
    assert!(code == 0 && told.contains(&xid), "{told}");
    let act = ["tx", "rollback", &xid, "--why", "a test", "--as", "mallory"];
    let (code, told) = ctl(&cluster, "bob-acts", &[&["--token-file", &bob], &act[..]].concat()).await?;
    assert!(code == 1 && told.contains("AP0009"), "{told}");
    let (code, told) = ctl(&cluster, "ada-acts", &[&["--token-file", &ada], &act[..]].concat()).await?;
    assert_eq!(code, 0, "{told}");
    let (_, told) = ctl(&cluster, "audit", &["--token-file", &bob, "tx", "audit"]).await?;
    assert!(told.contains("ada") && !told.contains("mallory"), "{told}");

    std::fs::write(
        &file,
        operators.split("[[operator]]\nname = \"bob\"").next().context("ada")?,
    )?;
    logged(&cluster, "operators reloaded").await?;
    let (code, told) = ctl(&cluster, "bob-is-gone", &["--token-file", &bob, "tx", "list"]).await?;
    ensure!(code == 1 && told.contains("AP0008"), "{told}");
    cluster.finish();
    scratch.finish();
    Ok(())
}
