//! `settle ctl`: an operator's view of a running cluster, over the HTTP API.

use anyhow::Context;
use serde_json::{Value, json};

use crate::http_client;

#[derive(clap::Args, Debug)]
pub struct CtlArgs {
    /// The HTTP API of any server of the cluster.
    #[arg(long, global = true, default_value = "http://127.0.0.1:7091", value_name = "URL")]
    http: String,
    /// Print what the server answered, as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(clap::Subcommand, Debug)]
enum CtlCommand {
    /// The server itself and its groups.
    #[command(subcommand)]
    Node(NodeCommand),
    /// One group of the server.
    #[command(subcommand)]
    Group(GroupCommand),
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Global transactions.
    #[command(subcommand)]
    Tx(TxCommand),
}

#[derive(clap::Subcommand, Debug)]
enum NodeCommand {
    /// The server's groups, their leaders and members.
    Status,
    /// A server's disk is lost for good: let it in again with an empty one.
    Replace {
        /// Its id.
        node: u32,
    },
    /// Hand the leadership of all groups to a server.
    TransferLeader {
        /// Its id.
        node: u32,
    },
}

#[derive(clap::Subcommand, Debug)]
enum GroupCommand {
    /// The groups that the server has a replica of.
    List,
    /// Hand the leadership of a group to a server. Ask its leader.
    Transfer {
        group: u64,
        /// The server's id.
        node: u32,
    },
    /// Have the server take a snapshot of its replica now, so that it can let go of its log.
    Snapshot { group: u64 },
    /// A majority of the group's voters is lost for good: go on with the survivors, at the cost of what only the lost
    /// ones knew. Ask that survivor whose log reaches furthest (`settle ctl node status` at each).
    ResetMembers {
        /// The group's id.
        group: u64,
        /// The servers that are left, the asked one among them.
        #[arg(long, required = true, value_delimiter = ',', value_name = "IDS")]
        survivors: Vec<u32>,
    },
}

#[derive(clap::Subcommand, Debug)]
enum ClusterCommand {
    /// The cluster version in force, and what every server's build can do.
    Version {
        #[command(subcommand)]
        command: Option<VersionCommand>,
    },
}

#[derive(clap::Subcommand, Debug)]
enum VersionCommand {
    /// Let all servers go by a new version, once all of them run a build that can. It never falls again. Ask the leader.
    Raise {
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        version: u32,
    },
}

#[derive(clap::Subcommand, Debug)]
enum TxCommand {
    /// Transactions that have not ended.
    List {
        /// Only those with this status, e.g. Begin or CommitRetrying.
        #[arg(long)]
        status: Option<String>,
        /// Only those begun at least so long ago, e.g. 30s or 10m.
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Continue after this transaction id.
        #[arg(long, value_name = "ID")]
        after: Option<i64>,
    },
    /// One transaction with its branches.
    Show {
        /// Its xid, or the number at the end of it.
        xid: String,
    },
}

pub fn run(args: CtlArgs) -> anyhow::Result<()> {
    let base = args.http.trim_end_matches('/');
    let answer = match &args.command {
        CtlCommand::Node(NodeCommand::Status) => http_client::get(&format!("{base}/v1/node"))?,
        CtlCommand::Node(NodeCommand::Replace { node }) => {
            http_client::post(&format!("{base}/v1/node/replace"), &json!({ "node": node }))?;
            println!("Server {node} is let in with an empty disk as soon as it is connected.");
            return Ok(());
        }
        CtlCommand::Node(NodeCommand::TransferLeader { node }) => {
            http_client::post(&format!("{base}/v1/node/transfer-leader"), &json!({ "node": node }))?;
            println!("Asked. `settle ctl node status` shows who leads.");
            return Ok(());
        }
        CtlCommand::Group(GroupCommand::List) => http_client::get(&format!("{base}/v1/node"))?,
        CtlCommand::Group(GroupCommand::Transfer { group, node }) => {
            let url = format!("{base}/v1/group/{group}/transfer-leader");
            http_client::post(&url, &json!({ "node": node }))?;
            println!("Asked. `settle ctl group list` shows who leads.");
            return Ok(());
        }
        CtlCommand::Group(GroupCommand::Snapshot { group }) => {
            http_client::post(&format!("{base}/v1/group/{group}/snapshot"), &json!({}))?;
            println!("Begun. The server's log tells when it is taken.");
            return Ok(());
        }
        CtlCommand::Group(GroupCommand::ResetMembers { group, survivors }) => {
            let body = json!({ "group": group, "survivors": survivors });
            http_client::post(&format!("{base}/v1/group/reset-members"), &body)?
        }
        CtlCommand::Cluster(ClusterCommand::Version { command }) => {
            let url = format!("{base}/v1/cluster/version");
            match command {
                None => http_client::get(&url)?,
                Some(VersionCommand::Raise { version }) => http_client::post(&url, &json!({ "version": version }))?,
            }
        }
        CtlCommand::Tx(TxCommand::List {
            status,
            older_than,
            limit,
            after,
        }) => {
            let mut url = format!("{base}/v1/tx?limit={limit}");
            for (name, value) in [("status", status), ("older-than", older_than)] {
                if let Some(value) = value {
                    url.push_str(&format!("&{name}={}", escaped(value)));
                }
            }
            if let Some(after) = after {
                url.push_str(&format!("&after={after}"));
            }
            http_client::get(&url)?
        }
        CtlCommand::Tx(TxCommand::Show { xid }) => http_client::get(&format!("{base}/v1/tx/{}", escaped(xid)))?,
    };
    if args.json {
        println!("{}", answer.trim_end());
        return Ok(());
    }
    let value: Value = serde_json::from_str(&answer).context("the server's answer is no JSON")?;
    match args.command {
        CtlCommand::Node(_) => print_node(&value),
        CtlCommand::Group(GroupCommand::ResetMembers { .. }) => print_reset(&value),
        CtlCommand::Group(_) => print_groups(&value),
        CtlCommand::Cluster(ClusterCommand::Version { command: None }) => print_version(&value),
        CtlCommand::Cluster(ClusterCommand::Version {
            command: Some(VersionCommand::Raise { version }),
        }) => print_raised(&value, version),
        CtlCommand::Tx(TxCommand::List { .. }) => print_list(&value),
        CtlCommand::Tx(TxCommand::Show { .. }) => print_tx(&value),
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => (byte as char).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn print_reset(answer: &Value) {
    let (commit, last) = (&answer["commit"], &answer["last-index"]);
    println!(
        "Group {} goes on with the voters {}.",
        answer["group"], answer["voters"]
    );
    println!(
        "Whatever the lost servers had acknowledged after entry {last} (term {}) is lost.",
        answer["last-term"]
    );
    println!("Entries {commit} (excluded) to {last} are kept, although nobody may have been told of them.");
    for lost in answer["lost"].as_array().into_iter().flatten() {
        let seconds = &lost["unconnected-seconds"];
        println!(
            "Lost: server {} ({}), not connected for {seconds} s.",
            lost["node"], lost["incarnation"]
        );
    }
}

fn print_version(answer: &Value) {
    match (&answer["lowest"], &answer["highest"]) {
        (Value::Null, _) => println!("This server has no group yet."),
        (lowest, highest) if lowest == highest => println!("cluster version {lowest} is in force"),
        (lowest, highest) => println!("cluster versions {lowest} to {highest} are in force, one group after the other"),
    }
    let mut table = vec![["node", "build"].map(str::to_owned)];
    for node in rows(&answer["nodes"]) {
        let build = match &node["build"] {
            Value::Null => "not connected".to_owned(),
            build => text(build),
        };
        table.push([text(&node["node"]), build]);
    }
    print_table(&table);
}

fn print_raised(answer: &Value, version: u32) {
    let (groups, leaderless) = (&answer["groups"], &answer["leaderless"]);
    let ask: Vec<String> = rows(&answer["ask"]).iter().map(text).collect();
    if *groups == 0 && *leaderless == 0 && ask.is_empty() {
        println!("Every group of this server goes by cluster version {version} already, or by a later one.");
        return;
    }
    println!("Begun in groups that this server leads: {groups}. `settle ctl cluster version` shows what is in force.");
    if !ask.is_empty() {
        println!("Others are led by other servers; ask these too: {}.", ask.join(", "));
    }
    if *leaderless != 0 {
        println!("Without a leader at the moment: {leaderless}; ask again.");
    }
}

fn print_node(node: &Value) {
    println!(
        "node {}   incarnation {}   cluster {}",
        node["node"],
        text(&node["incarnation"]),
        text(&node["cluster"])
    );
    let connected: Vec<String> = rows(&node["connected"]).iter().map(text).collect();
    println!(
        "connected with: {}",
        if connected.is_empty() {
            "nobody".to_owned()
        } else {
            connected.join(", ")
        }
    );
    let counts = &node["group_counts"];
    println!(
        "groups: {} here, {} of them at rest; {} led, {} without a leader",
        counts["here"], counts["resting"], counts["led"], counts["leaderless"]
    );
    for group in rows(&node["groups"]) {
        let joint = if group["joint"] == true {
            ", members are changing"
        } else {
            ""
        };
        println!(
            "\ngroup {}: {}{joint} in term {}, leader is node {}; log up to {}, committed {}, applied {}",
            group["group"],
            text(&group["role"]),
            group["term"],
            text(&group["leader"]),
            group["last_index"],
            group["commit_index"],
            group["applied_index"]
        );
        let mut table = vec![["node", "role", "address", "incarnation", "has up to"].map(str::to_owned)];
        for member in rows(&group["members"]) {
            table.push(["node", "role", "address", "incarnation", "match_index"].map(|key| text(&member[key])));
        }
        print_table(&table);
    }
}

fn print_groups(node: &Value) {
    let keys = [
        "group",
        "role",
        "term",
        "leader",
        "last_index",
        "commit_index",
        "applied_index",
    ];
    let mut table = vec![["group", "role", "term", "leader", "log up to", "committed", "applied"].map(str::to_owned)];
    table.extend(
        rows(&node["groups"])
            .iter()
            .map(|group| keys.map(|key| text(&group[key]))),
    );
    print_table(&table);
}

fn print_list(answer: &Value) {
    let mut table = vec![
        [
            "xid",
            "status",
            "age",
            "timeout",
            "open branches",
            "application",
            "name",
        ]
        .map(str::to_owned),
    ];
    for tx in rows(&answer["transactions"]) {
        table.push([
            text(&tx["xid"]),
            text(&tx["status"]),
            seconds(&tx["age_ms"]),
            seconds(&tx["timeout_ms"]),
            text(&tx["open_branches"]),
            text(&tx["application"]),
            text(&tx["name"]),
        ]);
    }
    match table.len() {
        1 => println!("No such transaction is open."),
        _ => print_table(&table),
    }
    if let Some(next) = answer["next"].as_str() {
        println!("There are more: --after {next}");
    }
}

fn print_tx(tx: &Value) {
    if tx["ended"] == true {
        let note = if tx["evicted"] == true {
            " (its outcome is no longer kept)"
        } else {
            ""
        };
        println!("{}: {}{note}", text(&tx["id"]), text(&tx["status"]));
        return;
    }
    println!(
        "{}: {} for {} of {}; application {}, group {}, name {}",
        text(&tx["xid"]),
        text(&tx["status"]),
        seconds(&tx["age_ms"]),
        seconds(&tx["timeout_ms"]),
        text(&tx["application"]),
        text(&tx["service_group"]),
        text(&tx["name"])
    );
    let mut table = vec![
        [
            "branch",
            "type",
            "status",
            "retrying for",
            "resource",
            "client",
            "locks",
        ]
        .map(str::to_owned),
    ];
    for branch in rows(&tx["branches"]) {
        table.push([
            text(&branch["branch"]),
            text(&branch["branch_type"]),
            text(&branch["status"]),
            seconds(&branch["retrying_for_ms"]),
            text(&branch["resource"]),
            text(&branch["client"]),
            text(&branch["lock_keys"]),
        ]);
    }
    print_table(&table);
}

fn seconds(ms: &Value) -> String {
    match ms.as_u64() {
        Some(ms) => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        None => "–".to_owned(),
    }
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let line: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("  {cell:<width$}"))
            .collect();
        println!("{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_types_reaches_the_server_as_one_path_segment() {
        assert_eq!(
            escaped("10.0.0.1:8091:72057594037927937"),
            "10.0.0.1:8091:72057594037927937"
        );
        assert_eq!(escaped("a/b?c&d"), "a%2Fb%3Fc%26d");
    }
}
