//! How messages travel between the nodes of a world, and how connections come and go.

use settle_host::{HostEvent, Lane, PeerMessage, peer_codec};

use crate::{
    invariants::{Broken, Checked},
    workload::Workload,
    world::{Happening, World},
};

impl<W: Workload> World<W> {
    pub(crate) fn send(&mut self, from: usize, to: usize, lane: Lane, message: PeerMessage) -> Checked {
        if let PeerMessage::Raft(messages) = &message {
            let host = self.nodes[from].host.as_ref().expect("it just spoke");
            for message in messages {
                let last = host.raft(message.group).map_or(0, |raft| raft.last_index());
                self.invariants.sent(message, last)?;
            }
        }
        let number = self.network.connection(from, to).number;
        if number == 0 {
            return Ok(());
        }
        if self.network.weather.lost_per_million > 0 && self.prng.per_million(self.network.weather.lost_per_million) {
            self.coverage.messages_lost += 1;
            return Ok(());
        }
        let message = if self.is_encoding {
            let decoded = peer_codec::decode(peer_codec::encode(&message));
            if decoded.as_ref() != Ok(&message) {
                let what = format!("{message:?} does not survive its encoding");
                return Err(Broken::new("messages survive their encoding", what));
            }
            decoded.expect("it was compared just now")
        } else {
            message
        };
        let doubled = self.network.weather.doubled_per_million;
        if doubled > 0 && self.prng.per_million(doubled) && matches!(message, PeerMessage::Raft(_)) {
            self.coverage.messages_doubled += 1;
            self.carry(from, to, number, lane, message.clone());
        }
        self.carry(from, to, number, lane, message);
        Ok(())
    }

    pub(crate) fn carry(&mut self, from: usize, to: usize, number: u64, lane: Lane, message: PeerMessage) {
        let at = self.now_us + self.network.weather.latency(&mut self.prng);
        let at = self.network.direction(from, to).arrival(lane, at);
        let arrives = Happening::Arrives {
            from,
            to,
            number,
            lane,
            message,
        };
        self.schedule(at - self.now_us, arrives);
    }

    pub(crate) fn arrives(&mut self, from: usize, to: usize, number: u64, lane: Lane, message: PeerMessage) -> Checked {
        if self.network.connection(from, to).number != number {
            return Ok(());
        }
        let direction = self.network.direction(from, to);
        if direction.is_blocked {
            direction.held.push_back((lane, message));
            return Ok(());
        }
        let from = self.nodes[from].id;
        self.give(to, HostEvent::Peer { from, message });
        Ok(())
    }

    pub(crate) fn block(&mut self, from: usize, to: usize) {
        self.network.direction(from, to).is_blocked = true;
        let number = self.network.connection(from, to).number;
        if number != 0 {
            let (a, b) = (from, to);
            let after = self.prng.between(300_000, 4_000_000);
            self.schedule(after, Happening::TimesOut { a, b, number });
        }
    }

    pub(crate) fn unblock_all(&mut self) {
        for from in 0..self.nodes.len() {
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                let number = self.network.connection(from, to).number;
                let direction = self.network.direction(from, to);
                direction.is_blocked = false;
                let held = std::mem::take(&mut direction.held);
                for (lane, message) in held {
                    self.carry(from, to, number, lane, message);
                }
            }
        }
    }

    pub(crate) fn break_connection(&mut self, a: usize, b: usize) {
        let connection = self.network.connection(a, b);
        let number = std::mem::take(&mut connection.number);
        if number == 0 {
            return;
        }
        self.coverage.connections_broken += 1;
        for direction in &mut connection.directions {
            direction.held.clear();
        }
        let mut both_know = 0;
        for (node, peer) in [(a, b), (b, a)] {
            let after = self.prng.between(10, 200_000);
            both_know = both_know.max(after);
            self.schedule(after, Happening::Down { node, peer, number });
        }
        self.connect_later(a, b, both_know);
    }

    pub(crate) fn connect_later(&mut self, a: usize, b: usize, at_least_us: u64) {
        let connection = self.network.connection(a, b);
        connection.attempts += 1;
        let attempt = connection.attempts;
        let after = at_least_us + self.prng.between(1_000, 300_000);
        self.schedule(after, Happening::Connect { a, b, attempt });
    }

    pub(crate) fn try_connect(&mut self, a: usize, b: usize) {
        // Whoever lost it last has not been told yet; a little later both have.
        self.connect_later(a, b, 200_000);
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize, attempt: u64) {
        let is_blocked = self.network.is_blocked(a, b);
        let next_number = self.network.next_number;
        let connection = self.network.connection(a, b);
        if connection.number != 0 || connection.attempts != attempt {
            return;
        }
        let (Some(left), Some(right)) = (&self.nodes[a].host, &self.nodes[b].host) else {
            return;
        };
        if is_blocked {
            return self.connect_later(a, b, 100_000);
        }
        let hellos = [(a, b, right.hello()), (b, a, left.hello())];
        self.network.connection(a, b).number = next_number;
        self.network.next_number += 1;
        for (node, peer, hello) in hellos {
            let hello = peer_codec::decode_hello(peer_codec::encode_hello(&hello)).expect("a hello survives encoding");
            let after = self.network.weather.latency(&mut self.prng);
            let opens_at = self.now_us + after;
            self.network.direction(peer, node).reset(opens_at);
            let number = next_number;
            let up = Happening::Up {
                node,
                peer,
                number,
                hello,
            };
            self.schedule(after, up);
        }
    }
}
