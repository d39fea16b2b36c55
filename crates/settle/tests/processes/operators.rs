//! What an operator is told, in words and by the exit code.

use anyhow::Result;
use settle_testkit::{Cluster, Process};

use crate::{SETTLE, SOON, spec};

/// Runs `settle ctl` against the first server; gives its exit code and what it printed.
pub async fn ctl(cluster: &Cluster, name: &str, words: &[&str]) -> Result<(i32, String)> {
    let url = format!("http://{}", cluster.http(1));
    let args = [&["ctl", "--http", &url], words].concat();
    let out = cluster.data_dir(1).with_extension(format!("{name}.out"));
    let mut process = Process::spawn(name, SETTLE.as_ref(), &args, &out)?;
    let status = process.exit(SOON).await?;
    Ok((status.code().unwrap_or(-1), process.output()))
}

#[tokio::test]
async fn the_cluster_version_is_shown_and_a_raise_that_no_build_can_follow_is_refused_in_words() -> Result<()> {
    let cluster = Cluster::start(spec(1)).await?;
    cluster.leader().await?;
    let (code, shown) = ctl(&cluster, "show", &["cluster", "version"]).await?;
    assert!(code == 0 && shown.contains("cluster version 1 is in force"), "{shown}");
    let (code, again) = ctl(&cluster, "again", &["cluster", "version", "raise", "1"]).await?;
    assert!(code == 0 && again.contains("already"), "{again}");
    let (code, refused) = ctl(&cluster, "refused", &["cluster", "version", "raise", "99"]).await?;
    assert!(code == 1 && refused.contains("HO0070: cluster version 99"), "{refused}");
    assert!(!refused.contains('{'), "words, not JSON: {refused}");
    for wrong in ["0", "-1", "two"] {
        let (code, output) = ctl(&cluster, "wrong", &["cluster", "version", "raise", wrong]).await?;
        assert_eq!(code, 2, "{output}");
    }
    for body in ["{}", "nonsense", r#"{"version":"2"}"#, r#"{"version":2,"more":1}"#] {
        let answer = cluster.post(1, "/v1/cluster/version", body).await?;
        assert!(
            answer.status == 400 && answer.body.contains("AP0001"),
            "{body}: {}",
            answer.body
        );
    }
    cluster.finish();
    Ok(())
}
