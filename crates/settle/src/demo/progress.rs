//! One live line on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::board::Board;
use crate::bench::grouped;

const ON_A_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Carriage return, and erase the line.
const AGAIN: &str = "\r\x1b[2K";

/// Tells on standard error how it goes, so that standard output has the report alone.
pub async fn show(board: Arc<Board>, started: Instant, mut stop: watch::Receiver<bool>) {
    let is_terminal = std::io::stderr().is_terminal();
    let pause = if is_terminal { ON_A_TERMINAL } else { ELSEWHERE };
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep(pause) => {}
        }
        let line = line(&board, started.elapsed());
        if is_terminal {
            eprint!("{AGAIN}{line}");
            // A terminal that is gone is no reason to stop.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
    if is_terminal {
        eprint!("{AGAIN}");
    }
}

/// Short enough for a terminal of 80 columns.
fn line(board: &Board, elapsed: Duration) -> String {
    format!(
        "{:>3} s {:>7} transfers, {:>2} open, {:>2} kills, stall max {:.2} s, {}",
        elapsed.as_secs(),
        grouped(board.done()),
        board.in_flight(),
        board.kills.load(Ordering::Relaxed),
        board.longest_stall().as_secs_f64(),
        board.news()
    )
}
