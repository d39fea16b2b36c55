//! Somebody's own state machine under our faults: see [`check`].

mod clients;
mod machine;

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use settle_base::Prng;
use settle_machine::StateMachine;

use crate::{Cut, Options, Report, Shape, shrink, world};
use clients::Commands;

/// What a user says about the state of one replica.
pub(crate) type Invariant<M> = Arc<dyn Fn(&M) -> Result<(), String> + Send + Sync>;
type Draw = Arc<dyn Fn(&mut Prng) -> Bytes>;

/// How a state machine is to be tried: how it is made, what clients ask of it, and what must hold.
pub struct Plan<M> {
    pub(crate) make: Arc<dyn Fn() -> M + Send + Sync>,
    pub(crate) draw: Option<Draw>,
    pub(crate) invariants: Vec<Invariant<M>>,
    pub(crate) at_end: Vec<Invariant<M>>,
    seeds: Range<u64>,
    shape: Shape,
    pub(crate) clients: usize,
}

impl<M: StateMachine + 'static> Plan<M> {
    /// `make` gives an empty machine; every replica starts from one.
    pub fn new(make: impl Fn() -> M + Send + Sync + 'static) -> Plan<M> {
        Plan {
            make: Arc::new(make),
            draw: None,
            invariants: Vec::new(),
            at_end: Vec::new(),
            seeds: 0..20,
            shape: Shape {
                nodes: 0,
                groups: 1,
                faults_us: 20_000_000,
                varies_members: false,
            },
            clients: 5,
        }
    }

    /// What a client asks next. The machine's own `check` must accept it.
    pub fn commands<C: Into<Bytes>>(mut self, draw: impl Fn(&mut Prng) -> C + 'static) -> Plan<M> {
        self.draw = Some(Arc::new(move |prng| draw(prng).into()));
        self
    }

    /// Must hold on every replica after each command that it applies, and after each snapshot that it loads. May be said
    /// several times.
    pub fn invariant(mut self, holds: impl Fn(&M) -> Result<(), String> + Send + Sync + 'static) -> Plan<M> {
        self.invariants.push(Arc::new(holds));
        self
    }

    /// Must hold once every client has its answers and all replicas are equal. May be said several times.
    pub fn at_end(mut self, holds: impl Fn(&M) -> Result<(), String> + Send + Sync + 'static) -> Plan<M> {
        self.at_end.push(Arc::new(holds));
        self
    }

    /// Default: 0 to 20, exclusive.
    pub fn seeds(mut self, seeds: Range<u64>) -> Plan<M> {
        self.seeds = seeds;
        self
    }

    /// So many simulated seconds with faults, before ten without and the healing. Default: 20.
    pub fn seconds(mut self, seconds: u64) -> Plan<M> {
        self.shape.faults_us = seconds * 1_000_000;
        self
    }

    /// Default: the seed decides, mostly 3. At most 9.
    pub fn nodes(mut self, nodes: u32) -> Plan<M> {
        self.shape.nodes = nodes.min(9);
        self
    }

    /// So many groups, each with machines of its own. Default: 1.
    pub fn groups(mut self, groups: u64) -> Plan<M> {
        self.shape.groups = groups.max(1);
        self
    }

    /// Each asks one thing at a time. Default: 5.
    pub fn clients(mut self, clients: usize) -> Plan<M> {
        self.clients = clients.max(1);
        self
    }

    /// Runs one seed to its end, or to the first violation.
    ///
    /// # Panics
    /// When no [`Plan::commands`] were given.
    pub fn run(&self, seed: u64, cut: Cut, keeps_script: bool) -> Report {
        assert!(self.draw.is_some(), "a plan needs commands");
        let options = Options {
            shape: self.shape,
            cut,
            keeps_script,
            ..Options::default()
        };
        world::run("plan", seed, options, |_, shape| Commands::new(self, shape))
    }
}

/// Runs a state machine under our faults: crashes that lose and tear unsynced writes, lost directories, full, slow and
/// failing disks, partitions, lost and doubled messages, pauses, drifting clocks, snapshots and restarts at any moment.
///
/// Clients propose drawn commands until they are told that each was applied; a command that was proposed twice is applied
/// once. Checked are, beside the plan's invariants: all invariants of consensus, that replicas which applied the same
/// prefix have the same `state_hash` (also those that came by a snapshot), that every command told is applied exactly
/// once, and that everything heals once the faults are over.
///
/// ```
/// # use bytes::{Buf, Bytes};
/// # use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};
/// /// A sum of numbers.
/// #[derive(Default)]
/// struct Sum(u64, Vec<u8>);
/// # fn number(bytes: &[u8]) -> Option<u64> {
/// #     Some(u64::from_le_bytes(bytes.try_into().ok()?))
/// # }
///
/// impl StateMachine for Sum {
///     // As in any program that uses Settle.
/// #     type Effect = ();
/// #     fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
/// #         let error = ApplyError { index: 0, reason: "no number".to_owned() };
/// #         number(command).map(drop).ok_or(error)
/// #     }
/// #     fn apply(&mut self, entry: EntryMeta, command: &Bytes, _: &mut Vec<()>) -> Result<(), ApplyError> {
/// #         let error = ApplyError { index: entry.index, reason: "no number".to_owned() };
/// #         self.0 += number(command).ok_or(error)?;
/// #         Ok(())
/// #     }
/// #     fn begin_snapshot(&self) -> SnapshotChunks {
/// #         Box::new(std::iter::once(Bytes::copy_from_slice(&self.0.to_le_bytes())))
/// #     }
/// #     fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
/// #         self.1.extend_from_slice(&chunk);
/// #         Ok(())
/// #     }
/// #     fn finish_load(&mut self) -> Result<(), LoadError> {
/// #         let image = std::mem::take(&mut self.1);
/// #         self.0 = number(&image).ok_or(LoadError { reason: "no number".to_owned() })?;
/// #         Ok(())
/// #     }
/// #     fn state_hash(&self) -> u64 {
/// #         self.0
/// #     }
/// }
///
/// settle_sim::check(
///     settle_sim::Plan::new(Sum::default)
///         .commands(|prng| (2 * prng.below(1_000)).to_le_bytes().to_vec())
///         .invariant(|sum| (sum.0 % 2 == 0).then_some(()).ok_or(format!("{} is odd", sum.0)))
///         .seeds(0..3),
/// );
/// ```
///
/// # Panics
/// At the first seed that breaks something, with the shrunk run as text.
pub fn check<M: StateMachine + 'static>(plan: Plan<M>) {
    for seed in plan.seeds.clone() {
        let report = plan.run(seed, Cut::default(), false);
        if let Some(violation) = report.violation.clone() {
            let shrunk = shrink::shrink(report, |cut| plan.run(seed, cut, true));
            let text = shrunk.text();
            panic!(
                "seed {seed} failed {violation}\nshrunk, it is: {}\n{text}",
                shrunk.violation()
            );
        }
    }
}
