//! How large a world is, and what of a seed's world may be left out.

use std::collections::BTreeSet;

use settle_base::Prng;

/// What a scenario says about its worlds before the seed does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// 0: the seed decides, mostly 3.
    pub nodes: u32,
    /// 0: the seed decides, 1 to 5.
    pub groups: u64,
    /// Faults happen for so long, in simulated microseconds.
    pub faults_us: u64,
    /// In some seeds a minority of the nodes are witnesses, which have no machines; in others groups are moved between
    /// the nodes, most of their voters at once.
    pub varies_members: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            nodes: 0,
            groups: 0,
            faults_us: 50_000_000,
            varies_members: false,
        }
    }
}

impl Shape {
    pub(crate) fn draw(&mut self, prng: &mut Prng) {
        let nodes = [3, 3, 3, 3, 3, 3, 5, 5, 2, 1][prng.below(10) as usize];
        let groups = [1, 3, 3, 4, 5][prng.below(5) as usize];
        if self.nodes == 0 {
            self.nodes = nodes;
        }
        if self.groups == 0 {
            self.groups = groups;
        }
    }

    pub(crate) fn cut_by(&mut self, cut: &Cut) {
        self.nodes = self.nodes.min(cut.nodes.unwrap_or(u32::MAX));
        self.groups = self.groups.min(cut.groups.unwrap_or(u64::MAX));
    }
}

/// What is left out of a seed's world, so that a failure is easier to read. Every act of the nemesis has its own stream of
/// randomness, so that the others stay what they are when one is left out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cut {
    pub nodes: Option<u32>,
    pub groups: Option<u64>,
    pub clients: Option<usize>,
    /// No fault after this time, in simulated microseconds.
    pub faults_us: Option<u64>,
    /// The run stops here, whatever is going on.
    pub until_us: Option<u64>,
    /// Numbers of acts that do not happen.
    pub without_acts: BTreeSet<u64>,
    /// New leaders are left alone.
    pub hunts_nobody: bool,
    /// No message is lost, doubled or slow by itself.
    pub has_good_weather: bool,
    /// No disk fails while a node starts.
    pub starts_well: bool,
}
