//! Transactions that a server can be asked about: undecided, ended, and stuck either way on a branch that fails.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use settle_sdk::{BranchCall, Options, Rm, TccError, TccFuture, TccResource, Tm};
use tokio::runtime::Runtime;

/// Of each story. Acts use them up.
const EACH: u32 = 40;
/// Longer than anybody asks: none ends by itself.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// They stay as they are for as long as this lives and nobody acts on them.
pub struct Transactions {
    known: Vec<Known>,
    /// Fails the calls of the stuck ones.
    _resources: Rm,
    _runtime: Runtime,
}

/// One of them.
#[derive(Serialize)]
pub struct Known {
    id: String,
    xid: String,
    branch: String,
    /// The first of the rows that its branch locks.
    row: String,
    /// How it stands until somebody acts on it.
    standing: Standing,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    Undecided,
    /// For ever, since its branch fails; so the next.
    Committing,
    RollingBack,
    Ended,
}

/// What becomes of them before the server is asked, and what answers their branches' second phase.
const STORIES: [(Standing, End, Resource); 6] = [
    (Standing::Undecided, End::None, Resource::Failing),
    (Standing::Committing, End::Commit, Resource::Failing),
    (Standing::RollingBack, End::Rollback, Resource::Failing),
    (Standing::RollingBack, End::Rollback, Resource::Broken),
    (Standing::Ended, End::Commit, Resource::Obedient),
    (Standing::Ended, End::Rollback, Resource::Obedient),
];

#[derive(Clone, Copy)]
enum End {
    None,
    Commit,
    Rollback,
}

/// What answers the second phase of a branch.
#[derive(Clone, Copy)]
enum Resource {
    Obedient,
    /// It is called again.
    Failing,
    /// It is not: an operator has to look.
    Broken,
}

impl Resource {
    const ALL: [Resource; 3] = [Resource::Obedient, Resource::Failing, Resource::Broken];

    fn answer(self) -> Result<(), TccError> {
        match self {
            Resource::Obedient => Ok(()),
            Resource::Failing => Err(TccError::retryable("it fails as it was asked to")),
            Resource::Broken => Err(TccError::unretryable("it fails as it was asked to")),
        }
    }
}

impl TccResource for Resource {
    fn name(&self) -> &str {
        match self {
            Resource::Obedient => "obedient",
            Resource::Failing => "failing",
            Resource::Broken => "broken",
        }
    }

    fn commit<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async { self.answer() })
    }

    fn rollback<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async { self.answer() })
    }
}

impl Transactions {
    /// Begins them at the server with this address of its transaction port.
    pub fn begin(server: &str) -> anyhow::Result<Transactions> {
        let runtime = Runtime::new().context("start a runtime")?;
        let (known, resources) = runtime.block_on(begin_all(server))?;
        Ok(Transactions {
            known,
            _resources: resources,
            _runtime: runtime,
        })
    }

    pub fn all(&self) -> &[Known] {
        &self.known
    }
}

async fn begin_all(server: &str) -> anyhow::Result<(Vec<Known>, Rm)> {
    let options = Options::new([server], "api");
    let resources = Resource::ALL.map(|resource| Arc::new(resource) as Arc<dyn TccResource>);
    let rm = Rm::connect(options.clone(), resources.to_vec()).await?;
    let tm = Tm::connect(options).await?;
    let mut known = Vec::new();
    for n in 0..EACH {
        for (standing, end, resource) in STORIES {
            let row = format!("account:{}", 2 * known.len());
            let transaction = tm.begin(&format!("transfer {n}"), TIMEOUT).await?;
            let xid = transaction.xid().to_owned();
            let locks = format!("{row},{}", 2 * known.len() + 1);
            let branch = rm.register_at(&xid, resource.name(), &locks, "").await?;
            match end {
                End::None => drop(transaction.forget()),
                End::Commit => drop(transaction.commit().await?),
                End::Rollback => drop(transaction.rollback().await?),
            }
            let (_, id) = xid.rsplit_once(':').context("an xid ends with its number")?;
            known.push(Known {
                id: id.to_owned(),
                branch: branch.to_string(),
                row,
                standing,
                xid,
            });
        }
    }
    Ok((known, rm))
}
