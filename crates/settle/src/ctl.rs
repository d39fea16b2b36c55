//! `settle ctl`: an operator's view of a running cluster, and hand in it, over the HTTP API.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use crate::http_client::Client;

#[cfg(feature = "import-check")]
mod import_check;
mod service_groups;
mod table;
mod tx;

use table::{print_table, rows, text};
use tx::TxCommand;

mod backup;

#[derive(clap::Args, Debug)]
pub struct CtlArgs {
    /// The HTTP API of any server of the cluster.
    #[arg(long, global = true, default_value = "http://127.0.0.1:7091", value_name = "URL")]
    http: String,
    /// PEM of who signs the certificates of the servers, for an API that speaks TLS (`https://…`).
    #[arg(long, global = true, value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// A file with your token, for servers that ask operators who they are. Else the variable SETTLECTL_TOKEN, if it is set.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print what the server answered, as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

/// Something that a command needs is not there, or does not answer: exit code 3, and no verdict.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct EnvironmentMissing(pub anyhow::Error);

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
    /// Write a backup of a group of transactions to a file.
    Backup {
        /// The group.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
        group: u8,
        /// Where to. Written beside it first, and put there when it is whole.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Bring a backup into the same group of a newly founded cluster. Broken off, it goes on where it was when it is called
    /// again with the same file.
    Restore {
        /// A file of `settle ctl backup`.
        file: PathBuf,
    },
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

/// The server that is asked.
struct Server {
    base: String,
    client: Client,
}

impl Server {
    fn of(args: &CtlArgs) -> anyhow::Result<Server> {
        let token = match &args.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                Some(text.with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => std::env::var("SETTLECTL_TOKEN").ok(),
        };
        let token = token.map(|token| token.trim().to_owned());
        Ok(Server {
            base: args.http.trim_end_matches('/').to_owned(),
            client: Client::new(args.authorities.as_deref(), token)?,
        })
    }

    /// Gets `path`.
    fn get(&self, path: &str) -> anyhow::Result<String> {
        self.client.get(&format!("{}{path}", self.base))
    }

    /// Posts JSON to `path`.
    fn post(&self, path: &str, body: &Value) -> anyhow::Result<String> {
        self.client.post(&format!("{}{path}", self.base), body)
    }
}

pub fn run(args: CtlArgs) -> anyhow::Result<()> {
    let server = Server::of(&args)?;
    let answer = match &args.command {
        CtlCommand::Node(NodeCommand::Status) => server.get("/v1/node")?,
        CtlCommand::Node(NodeCommand::Replace { node }) => {
            server.post("/v1/node/replace", &json!({ "node": node }))?;
            println!("Server {node} is let in with an empty disk as soon as it is connected.");
            return Ok(());
        }
        CtlCommand::Node(NodeCommand::TransferLeader { node }) => {
            server.post("/v1/node/transfer-leader", &json!({ "node": node }))?;
            println!("Asked. `settle ctl node status` shows who leads.");
            return Ok(());
        }
        CtlCommand::Group(GroupCommand::List) => server.get("/v1/node")?,
        CtlCommand::Group(GroupCommand::Transfer { group, node }) => {
            let url = format!("/v1/group/{group}/transfer-leader");
            server.post(&url, &json!({ "node": node }))?;
            println!("Asked. `settle ctl group list` shows who leads.");
            return Ok(());
        }
        CtlCommand::Group(GroupCommand::Snapshot { group }) => {
            server.post(&format!("/v1/group/{group}/snapshot"), &json!({}))?;
            println!("Begun. The server's log tells when it is taken.");
            return Ok(());
        }
        CtlCommand::Group(GroupCommand::ResetMembers { group, survivors }) => {
            let body = json!({ "group": group, "survivors": survivors });
            server.post("/v1/group/reset-members", &body)?
        }
        CtlCommand::Cluster(ClusterCommand::Version { command }) => {
            let url = "/v1/cluster/version";
            match command {
                None => server.get(url)?,
                Some(VersionCommand::Raise { version }) => server.post(url, &json!({ "version": version }))?,
            }
        }
        CtlCommand::Tx(command) => return tx::run(&server, args.json, command),
        CtlCommand::Backup { group, out } => return backup::write(&server, args.json, *group, out),
        CtlCommand::Restore { file } => return backup::restore(&server, args.json, file),
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
        CtlCommand::Tx(_) | CtlCommand::Backup { .. } | CtlCommand::Restore { .. } => {
            unreachable!("these were answered before")
        }
    }
    Ok(())
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
