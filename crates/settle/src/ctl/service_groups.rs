//! `settle ctl tx service-groups`: where service groups begin, and moves of them.

use serde_json::{Value, json};

use super::{
    Server,
    table::{duration, print_table, rows, text},
    tx::{Show, get, parsed},
};

#[derive(clap::Subcommand, Debug)]
pub(super) enum ServiceGroupsCommand {
    /// Move service groups to another transaction group, all of them at once. What they have open ends where it is; until
    /// then nothing new begins for them. Applications that change the same tables belong in one move.
    Move {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The transaction group to which they go.
        #[arg(long, value_name = "GROUP", value_parser = clap::value_parser!(u8).range(1..))]
        to: u8,
        #[command(flatten)]
        why: Why,
    },
    /// Take back the move that a service group is on, unless its old group is drained already.
    Cancel {
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

/// Who acts and why: kept in the log.
#[derive(clap::Args, Debug)]
pub(super) struct Why {
    /// Why; a ticket's number will do.
    #[arg(long, alias = "reason", value_name = "TEXT")]
    why: String,
    /// Who acts.
    #[arg(long = "as", value_name = "NAME", env = "USER")]
    operator: String,
}

const URL: &str = "/v1/tx/service-groups";

pub(super) fn run(server: &Server, command: Option<&ServiceGroupsCommand>, show: &Show<'_>) -> anyhow::Result<()> {
    match command {
        None => show(&get(server, URL)?, &print_service_groups),
        Some(ServiceGroupsCommand::Move { names, to, why }) => {
            let body = why.body(json!({ "service_groups": names, "to": to }));
            let answer = parsed(&server.post(&format!("{URL}/move"), &body)?)?;
            show(&answer, &|answer: &Value| match &answer["acted"] {
                Value::Bool(true) => println!(
                    "Begun: move {}. `settle ctl tx service-groups` shows how far it is.",
                    answer["number"]
                ),
                _ => println!("Nothing was left to do: they are there, or on their way."),
            });
        }
        Some(ServiceGroupsCommand::Cancel { name, why }) => {
            let body = why.body(json!({ "service_group": name }));
            let answer = parsed(&server.post(&format!("{URL}/cancel"), &body)?)?;
            show(&answer, &|answer: &Value| match &answer["acted"] {
                Value::Bool(true) => println!(
                    "Move {} is taken back, unless its old group was drained just before: `settle ctl tx service-groups` \
                     shows where they are.",
                    answer["number"]
                ),
                _ => println!("Nothing was left to do: move {} is being taken back.", answer["number"]),
            });
        }
    }
    Ok(())
}

impl Why {
    fn body(&self, mut body: Value) -> Value {
        body["operator"] = json!(self.operator);
        body["reason"] = json!(self.why);
        body
    }
}

fn print_service_groups(answer: &Value) {
    let mut table = vec![["service group", "begins in group", "since", ""].map(str::to_owned)];
    for row in rows(&answer["service_groups"]) {
        let since = match row["by_move"].as_u64() {
            None | Some(0) => "by the configuration".to_owned(),
            Some(number) => format!("move {number}"),
        };
        let moving = match row["moving"].as_u64() {
            None => String::new(),
            Some(number) => format!("moving (move {number})"),
        };
        table.push([text(&row["service_group"]), text(&row["group"]), since, moving]);
    }
    match table.len() {
        1 => println!("Every service group begins in the first group."),
        _ => print_table(&table),
    }
    for a_move in rows(&answer["moves"]) {
        let names: Vec<String> = rows(&a_move["service_groups"]).iter().map(text).collect();
        let what = match &a_move["cancelled"] {
            Value::Bool(true) => "is being taken back",
            _ => "is under way",
        };
        println!(
            "\nMove {} of {} from group {} to group {} {what} for {}.\n  Its old group is {}; transactions left: {}; it waits \
             for {}.",
            a_move["number"],
            names.join(", "),
            a_move["from"],
            a_move["to"],
            duration(&a_move["age_ms"]),
            text(&a_move["stage"]),
            a_move["transactions_left"],
            waits_for(a_move)
        );
    }
}

fn waits_for(a_move: &Value) -> String {
    let group = &a_move["waits_for_group"];
    match a_move["waits_for"].as_str() {
        Some("transactions") => "these to end".to_owned(),
        Some("replica") => {
            format!("a leader of the first group that has a replica of group {group}; the asked server has none")
        }
        Some("version") => format!("the cluster version of group {group} to be raised"),
        _ => "its next step".to_owned(),
    }
}
