//! Clients that write and read numbered keys, one thing at a time each, until they are told; and what they were told.

use settle_base::Prng;

use crate::{
    invariants::{Broken, Checked, History},
    workload::Io,
};

/// How busy the clients of a seed are, and with what.
pub(crate) struct Habits {
    pub(crate) clients: u64,
    /// Keys are numbers below this.
    pub(crate) keys: u32,
    /// Half the longest pause between two questions.
    pub(crate) think_us: u64,
    pub(crate) write_percent: u64,
    /// A client asks the node that answered it last, as long as that is up; else any.
    pub(crate) are_faithful: bool,
}

pub(crate) struct Clients {
    habits: Habits,
    all: Vec<Client>,
    is_stopped: bool,
    pub(crate) history: History,
    pub(crate) retries: u64,
}

#[derive(Default)]
struct Client {
    number: u64,
    node: usize,
    asking: Option<Asking>,
    /// Timers of earlier tries are of no interest.
    generation: u64,
    /// `node` told it something, and has not let it wait since.
    is_trusted: bool,
}

/// What a client wants to know or done.
#[derive(Clone, Copy)]
pub(crate) struct Asking {
    pub(crate) client: u32,
    /// Counts the questions of this client.
    pub(crate) number: u64,
    pub(crate) key: u32,
    /// `None`: it reads.
    pub(crate) value: Option<u64>,
    /// The newest version that somebody had been told when this began.
    floor: u64,
}

impl Clients {
    pub(crate) fn new(habits: Habits) -> Clients {
        Clients {
            all: (0..habits.clients).map(|_| Client::default()).collect(),
            habits,
            is_stopped: false,
            history: History::default(),
            retries: 0,
        }
    }

    pub(crate) fn keys(&self) -> u32 {
        self.habits.keys
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn truncate(&mut self, most: usize) {
        self.all.truncate(most);
    }

    pub(crate) fn begin<R>(&mut self, io: &mut Io<R>) {
        for i in 0..self.all.len() {
            self.rest(i, io);
        }
    }

    /// No new questions; what was asked is to be answered.
    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.all.iter().all(|c| c.asking.is_none())
    }

    /// One of their timers. `begins` hears of a new question, `request` puts one into the words of the service.
    pub(crate) fn wake<R>(
        &mut self,
        timer: u64,
        io: &mut Io<R>,
        begins: impl FnOnce(&Asking),
        request: impl FnOnce(&Asking) -> R,
    ) {
        let (i, generation) = ((timer >> 32) as usize, timer & u64::from(u32::MAX));
        if self.all[i].generation != generation {
            return;
        }
        if self.all[i].asking.is_some() {
            self.retries += 1;
            self.all[i].is_trusted = false;
        } else if self.is_stopped {
            return;
        } else {
            begins(self.draw(i, io.prng));
        }
        self.ask(i, io, request);
    }

    fn draw(&mut self, i: usize, prng: &mut Prng) -> &Asking {
        let key = prng.below(u64::from(self.habits.keys)) as u32;
        let client = &mut self.all[i];
        client.number += 1;
        let value = ((i as u64 + 1) << 32) | client.number;
        let value = prng.percent(self.habits.write_percent).then_some(value);
        let floor = self.history.begins(key, value);
        client.asking.insert(Asking {
            client: i as u32,
            number: client.number,
            key,
            value,
            floor,
        })
    }

    fn ask<R>(&mut self, i: usize, io: &mut Io<R>, request: impl FnOnce(&Asking) -> R) {
        let client = &mut self.all[i];
        client.generation += 1;
        let timer = (i as u64) << 32 | client.generation;
        let Some(asking) = client.asking else { return };
        let stays = self.habits.are_faithful && client.is_trusted && io.is_up[client.node];
        let Some(node) = Some(client.node).filter(|_| stays).or_else(|| io.pick_node()) else {
            return io.wake_in(200_000, timer);
        };
        client.node = node;
        io.send(node, request(&asking));
        let patience = io.prng.between(500_000, 4_000_000);
        io.wake_in(patience, timer);
    }

    /// What question `number` of `client` was, if it still waits for its answer.
    pub(crate) fn asked(&self, client: u32, number: u64) -> Option<Asking> {
        let client = &self.all[client as usize];
        client.asking.filter(|asking| asking.number == number)
    }

    /// Its write made this version of its key.
    pub(crate) fn wrote<R>(&mut self, asking: &Asking, version: u64, io: &mut Io<R>) -> Checked {
        let Some(value) = asking.value else {
            return Err(unasked(asking, "that it wrote"));
        };
        self.history.wrote(asking.key, value, asking.floor, version)?;
        self.rest(asking.client as usize, io);
        Ok(())
    }

    /// Its read saw this.
    pub(crate) fn read<R>(&mut self, asking: &Asking, version: u64, value: u64, io: &mut Io<R>) -> Checked {
        if asking.value.is_some() {
            return Err(unasked(asking, "what it read"));
        }
        self.history.read(asking.key, asking.floor, version, value)?;
        self.rest(asking.client as usize, io);
        Ok(())
    }

    fn rest<R>(&mut self, i: usize, io: &mut Io<R>) {
        let client = &mut self.all[i];
        client.is_trusted = client.asking.take().is_some();
        client.generation += 1;
        let timer = (i as u64) << 32 | client.generation;
        let pause = io.prng.below(self.habits.think_us * 2);
        io.wake_in(pause, timer);
    }

    /// Who asked there asks again soon, somewhere.
    pub(crate) fn node_down<R>(&mut self, node: usize, io: &mut Io<R>) {
        for (i, client) in self.all.iter_mut().enumerate() {
            if client.node == node && client.asking.is_some() {
                client.generation += 1;
                let timer = (i as u64) << 32 | client.generation;
                let pause = io.prng.between(1_000, 100_000);
                io.wake_in(pause, timer);
            }
        }
    }

    pub(crate) fn describe(&self) -> String {
        let waiting: Vec<_> = self.all.iter().filter_map(|client| client.asking).collect();
        let waiting: Vec<_> = waiting.iter().map(|asking| (asking.client, asking.key)).collect();
        format!(
            "clients and keys {waiting:?} wait for an answer; {} writes told",
            self.history.writes_told()
        )
    }
}

fn unasked(asking: &Asking, what: &str) -> Broken {
    let what = format!("client {} was told {what}, which it did not ask", asking.client);
    Broken::new("answers fit their questions", what)
}
