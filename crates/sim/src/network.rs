//! Connections between nodes: ordered like TCP, slow, breaking, blocked one way or both.

use std::collections::VecDeque;

use settle_base::Prng;
use settle_host::{Lane, PeerMessage};

/// How messages fare in this seed.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) latency_us: std::ops::Range<u64>,
    pub(crate) slow_per_mille: u64,
    pub(crate) slow_us: std::ops::Range<u64>,
    pub(crate) lost_per_million: u64,
    pub(crate) doubled_per_million: u64,
}

impl Weather {
    pub(crate) fn draw(prng: &mut Prng) -> Weather {
        let base = [50, 200, 1_000, 5_000][prng.below(4) as usize];
        Weather {
            latency_us: base..base * 4,
            slow_per_mille: prng.below(20),
            slow_us: base * 4..base * 4 + 40_000,
            lost_per_million: [0, 500, 5_000][prng.below(3) as usize],
            doubled_per_million: [0, 500, 5_000][prng.below(3) as usize],
        }
    }

    pub(crate) fn calm(&mut self) {
        self.lost_per_million = 0;
        self.doubled_per_million = 0;
        self.slow_per_mille = 0;
    }

    pub(crate) fn latency(&self, prng: &mut Prng) -> u64 {
        let slow = self.slow_per_mille > 0 && prng.below(1_000) < self.slow_per_mille;
        let range = if slow { &self.slow_us } else { &self.latency_us };
        prng.between(range.start, range.end)
    }
}

/// One direction of one connection.
#[derive(Default)]
pub(crate) struct Direction {
    /// Nothing arrives: kept for when the block ends, or lost with the connection.
    pub(crate) is_blocked: bool,
    pub(crate) held: VecDeque<(Lane, PeerMessage)>,
    /// When the last message of each lane arrives.
    last_arrival: [u64; 2],
}

impl Direction {
    /// When a message sent now arrives: never before an earlier one of its lane.
    pub(crate) fn arrival(&mut self, lane: Lane, at: u64) -> u64 {
        let last = &mut self.last_arrival[usize::from(lane == Lane::Bulk)];
        *last = at.max(*last + 1);
        *last
    }

    pub(crate) fn reset(&mut self, opens_at: u64) {
        self.held.clear();
        self.last_arrival = [opens_at; 2];
    }
}

/// The connection of a pair of nodes, `low` < `high`.
#[derive(Default)]
pub(crate) struct Connection {
    /// Differs for every connection there ever was; 0: none now.
    pub(crate) number: u64,
    pub(crate) attempts: u64,
    /// From low to high, from high to low.
    pub(crate) directions: [Direction; 2],
}

pub(crate) struct Network {
    nodes: usize,
    connections: Vec<Connection>,
    pub(crate) weather: Weather,
    pub(crate) next_number: u64,
}

impl Network {
    pub(crate) fn new(nodes: usize, weather: Weather) -> Network {
        Network {
            nodes,
            connections: (0..nodes * nodes).map(|_| Connection::default()).collect(),
            weather,
            next_number: 1,
        }
    }

    pub(crate) fn connection(&mut self, a: usize, b: usize) -> &mut Connection {
        assert_ne!(a, b, "nobody is connected to itself");
        &mut self.connections[a.min(b) * self.nodes + a.max(b)]
    }

    pub(crate) fn direction(&mut self, from: usize, to: usize) -> &mut Direction {
        &mut self.connection(from, to).directions[usize::from(from > to)]
    }

    pub(crate) fn is_blocked(&mut self, a: usize, b: usize) -> bool {
        self.connection(a, b).directions.iter().any(|d| d.is_blocked)
    }
}
