//! `settle bench`: load generators that speak the upstreams' own wires, so that one generator measures an original
//! and Settle in one run; and one for replication alone, below all wires.

mod disk;
#[cfg(feature = "bench-etcd")]
mod etcd;
mod figures;
mod groups;
mod open;
mod process;
mod raft;
mod report;
mod tx;

pub(crate) use report::grouped;

#[derive(clap::Subcommand, Debug)]
pub enum BenchCommand {
    /// Global transactions over the Seata wire, with its own resource manager.
    Tx(tx::TxArgs),
    /// A million transactions that are never ended, on three servers of its own: their memory, a snapshot of them under
    /// load, a restart with them.
    Open(open::OpenArgs),
    /// Replication alone: three servers of its own, small entries, a log that is synced.
    Raft(raft::RaftArgs),
    /// Kills that cluster's leader under load, again and again, or watches it under load in peace.
    Failover(raft::FailoverArgs),
    /// Sends a large snapshot while that cluster serves.
    Snapshot(raft::SnapshotArgs),
    /// The same load on that cluster and on etcd, in turn.
    #[cfg(feature = "bench-etcd")]
    Etcd(etcd::EtcdArgs),
    /// Ten thousand groups on three servers: what one costs at rest, how soon it serves, and how soon those of a killed
    /// leader do.
    Groups(groups::GroupsArgs),
    /// One server of that cluster.
    #[command(hide = true)]
    RaftNode(raft::NodeArgs),
    /// One server with very many groups.
    #[command(hide = true)]
    GroupsNode(groups::NodeArgs),
}

pub async fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Tx(args) => tx::run(args).await,
        BenchCommand::Open(args) => open::run(args).await,
        BenchCommand::Raft(args) => raft::run(args).await,
        BenchCommand::Failover(args) => raft::run_failover(args).await,
        BenchCommand::Snapshot(args) => raft::run_snapshot(args).await,
        #[cfg(feature = "bench-etcd")]
        BenchCommand::Etcd(args) => etcd::run(args).await,
        BenchCommand::Groups(args) => groups::run(args).await,
        BenchCommand::GroupsNode(args) => groups::run_node(args).await,
        BenchCommand::RaftNode(args) => raft::run_node(args).await,
    }
}
