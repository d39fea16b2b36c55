//! The bank: two account services as real processes, each with money in its own SQLite file, and what is left of them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::account::{journal_path, money_path};
use crate::local::ChildProcess;

pub const SERVICES: [&str; 2] = ["north", "south"];
/// A service's port without the offset, plus this for each one before it.
const SERVICE_PORT: u16 = 9_091;
const SERVICE_PORTS_APART: u16 = 100;

pub struct AccountService {
    pub name: &'static str,
    pub process: ChildProcess,
    /// The base URL of its HTTP API.
    pub url: String,
}

impl AccountService {
    /// Starts the process and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let url = format!("{}/ready", self.url);
        self.process.wait_until_ready(&url).await
    }
}

pub struct Bank {
    data: PathBuf,
    pub services: [AccountService; 2],
}

impl Bank {
    /// Nothing runs yet. `transactions`: where Settle's servers listen for Seata clients.
    pub fn prepare(data: &Path, transactions: &[String], offset: u16) -> Bank {
        let services = std::array::from_fn(|at| {
            let name = SERVICES[at];
            let listen = format!("127.0.0.1:{}", service_port(at, offset));
            let arguments: Vec<OsString> = vec![
                "demo-account".into(),
                "--name".into(),
                name.into(),
                "--data".into(),
                data.into(),
                "--listen".into(),
                listen.clone().into(),
                "--transactions".into(),
                transactions.join(",").into(),
            ];
            AccountService {
                name,
                process: ChildProcess::new(
                    format!("Account service {name}"),
                    arguments,
                    data.join(format!("{name}.log")),
                ),
                url: format!("http://{listen}"),
            }
        });
        Bank {
            data: data.to_owned(),
            services,
        }
    }

    /// The ports that its services listen on.
    pub fn ports(offset: u16) -> impl Iterator<Item = u16> {
        (0..SERVICES.len()).map(move |at| service_port(at, offset))
    }

    /// Where each service is asked for its part of a transfer.
    pub fn urls(&self) -> [String; 2] {
        std::array::from_fn(|at| format!("{}/try", self.services[at].url))
    }

    /// Starts the services that do not run, and waits until they serve.
    ///
    /// # Errors
    /// When one does not.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        for service in &mut self.services {
            if !service.process.is_running() {
                service.start().await?;
            }
        }
        Ok(())
    }

    /// Stops the services in order, and says how that went.
    pub async fn stop(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for service in &mut self.services {
            said.extend(service.process.stop().await);
        }
        said
    }

    pub fn money(&self, side: usize) -> PathBuf {
        money_path(&self.data, SERVICES[side])
    }

    pub fn journal(&self, side: usize) -> PathBuf {
        journal_path(&self.data, SERVICES[side])
    }

    pub fn teller_journal(&self) -> PathBuf {
        journal_path(&self.data, "teller")
    }
}

fn service_port(at: usize, offset: u16) -> u16 {
    SERVICE_PORT + SERVICE_PORTS_APART * at as u16 + offset
}
