//! `settle bench`: load generators that speak the upstreams' own wires, so that one generator measures an original
//! and Settle in one run.

mod disk;
mod process;
mod report;
mod tx;

#[derive(clap::Subcommand, Debug)]
pub enum BenchCommand {
    /// Global transactions over the Seata wire, with its own resource manager.
    Tx(tx::TxArgs),
}

pub async fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Tx(args) => tx::run(args).await,
    }
}
