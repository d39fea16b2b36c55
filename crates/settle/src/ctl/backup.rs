//! `settle ctl backup` and `settle ctl restore`.

use std::{
    fs::File,
    io::{BufReader, IsTerminal, Read},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use super::{Server, table::utc};
use crate::backup::{BackupHead, BackupReader};

/// How long a part is asked for again while the group has no leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gets the backup of a group, reads it back, and only then gives it its name.
pub(super) fn write(server: &Server, is_json: bool, group: u8, out: &Path) -> anyhow::Result<()> {
    ensure!(
        !out.exists(),
        "{} is there already: a backup is never written over",
        out.display()
    );
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let cannot = || format!("cannot write {}", part.display());
    let mut body = server
        .client
        .get_stream(&format!("{}/v1/group/{group}/backup", server.base))?;
    let mut file = File::create(part).with_context(cannot)?;
    let bytes = std::io::copy(&mut body, &mut file).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    let (head, parts) = check(part)?;
    std::fs::rename(part, out).with_context(|| format!("cannot give {} its name", out.display()))?;
    match is_json {
        true => println!("{:#}", json!({ "head": head, "parts": parts, "bytes": bytes })),
        false => println!(
            "{}: group {} with {} open transactions, in {parts} parts and {bytes} bytes.",
            out.display(),
            head.group,
            head.open_transactions
        ),
    }
    Ok(())
}

/// The head and the number of parts of a backup that is whole.
fn check(path: &Path) -> anyhow::Result<(BackupHead, u64)> {
    let mut reader = open(path)?;
    let mut parts = 0;
    while reader.next().with_context(|| path.display().to_string())?.is_some() {
        parts += 1;
    }
    Ok((reader.head, parts))
}

fn open(path: &Path) -> anyhow::Result<BackupReader<impl Read + use<>>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    BackupReader::open(BufReader::new(file)).with_context(|| path.display().to_string())
}

#[derive(Deserialize)]
struct Restored {
    parts: u64,
    done: bool,
}

/// Reads the whole backup first: a damaged one changes nothing.
pub(super) fn restore(server: &Server, is_json: bool, path: &Path) -> anyhow::Result<()> {
    let (head, parts) = check(path)?;
    let url = format!("{}/v1/group/{}/restore", server.base, head.group);
    let is_shown = std::io::stderr().is_terminal();
    let mut reader = open(path)?;
    let mut told = Restored { parts: 0, done: false };
    let mut number = 0;
    while let Some(part) = reader.next()? {
        // What the group has already is not sent again.
        if number >= told.parts {
            let answer = server.client.post_bytes(&url, &part, PATIENCE)?;
            told = serde_json::from_str(&answer).context("the server's answer is no JSON")?;
        }
        number += 1;
        if is_shown {
            eprint!("\r{number} of {parts} parts");
        }
    }
    if is_shown {
        eprintln!();
    }
    if !told.done || told.parts != parts {
        bail!("the group has {} of {parts} parts and waits for more", told.parts);
    }
    match is_json {
        true => println!("{:#}", json!({ "head": head, "parts": parts })),
        false => println!(
            "Group {} is as it was in cluster {} about {}: {} transactions are open.",
            head.group,
            head.cluster,
            utc(&json!(head.taken_at_ms)),
            head.open_transactions
        ),
    }
    Ok(())
}
