//! How long calls through a surviving node stall: begins and commits through each node, one after the other, timed.

use std::{sync::Arc, time::Duration};

use settle_sdk::{
    Options,
    connection::{Connection, ConnectionError, Role, obedient},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{board::Board, nemesis::Lives, teller::TRANSFER_TIMEOUT};

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(10);

/// Calls through one server (from 0) for as long as it lives, and again when it lives again.
pub async fn probe(server: usize, address: String, lives: Arc<Lives>, board: Arc<Board>, stop: watch::Receiver<bool>) {
    let options = Options::new([address.clone()], "probe");
    while !*stop.borrow() {
        sleep(PAUSE).await;
        let Some(life) = lives.of(server) else { continue };
        let Ok(connection) = Connection::open(&address, &Role::TransactionManager, obedient(), &options).await else {
            continue;
        };
        while !*stop.borrow() && lives.of(server) == Some(life) {
            let called = call(&connection, &board, || lives.of(server) == Some(life)).await;
            if let Err(error) = called {
                if lives.of(server) == Some(life) {
                    board.call_failed(format!("through node {}: {error}", server + 1));
                }
                break;
            }
            sleep(PAUSE).await;
        }
    }
}

async fn call(connection: &Connection, board: &Board, survives: impl Fn() -> bool) -> Result<(), ConnectionError> {
    let note = |started: Instant| {
        if survives() {
            board.stalled(started.elapsed());
        }
    };
    let started = Instant::now();
    let xid = connection.begin("probe", TRANSFER_TIMEOUT.as_millis() as i32).await?;
    note(started);
    let started = Instant::now();
    connection.commit(&xid).await?;
    note(started);
    Ok(())
}

/// How late the machine runs a task that is due.
pub async fn watch_the_machine(board: Arc<Board>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let due = Instant::now() + TICK;
        sleep_until(due).await;
        board.was_late(due.elapsed());
    }
}
