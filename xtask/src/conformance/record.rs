//! A proxy that writes down what passes, one frame a line, so that real sessions become golden vectors.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};

/// Listens on a free loopback port and passes each connection on to `target`. Connection n is written to
/// `<dir>/<prefix>-n.hex`: `>` a frame of the client, `<` a frame of the server, in the order in which the proxy passed them.
pub fn proxy(target: String, dir: &Path, prefix: &str) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind the recording proxy")?;
    let address = listener.local_addr()?.to_string();
    let (dir, prefix) = (dir.to_owned(), prefix.to_owned());
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().enumerate() {
            let path = dir.join(format!("{prefix}-{}.hex", n + 1));
            let passed = client
                .map_err(anyhow::Error::from)
                .and_then(|client| pass(client, &target, path));
            if let Err(error) = passed {
                eprintln!("recording proxy: {error:#}");
            }
        }
    });
    Ok(address)
}

fn pass(client: TcpStream, target: &str, path: PathBuf) -> Result<()> {
    let server = TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
    let file = Arc::new(Mutex::new(
        File::create(&path).with_context(|| format!("create {}", path.display()))?,
    ));
    for (from, to, mark) in [(client.try_clone()?, server.try_clone()?, '>'), (server, client, '<')] {
        let file = file.clone();
        std::thread::spawn(move || copy(from, to, mark, &file));
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, mark: char, file: &Mutex<File>) {
    let mut pending = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while let Ok(n) = from.read(&mut chunk) {
        if n == 0 {
            break;
        }
        pending.extend_from_slice(&chunk[..n]);
        // Written before it is passed on, so that no answer can be written before its request.
        let mut lines = String::new();
        while let Some(frame) = take_frame(&mut pending) {
            lines.push(mark);
            lines.push(' ');
            lines.extend(frame.iter().map(|byte| format!("{byte:02x}")));
            lines.push('\n');
        }
        let written = file.lock().map(|mut file| file.write_all(lines.as_bytes()));
        if !matches!(written, Ok(Ok(()))) || to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    // The other direction ends with this one; it may have ended already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Takes the first whole frame: magic (2), version (1), full length (4, big-endian, from the magic on).
fn take_frame(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(pending.get(3..7)?.try_into().ok()?) as usize;
    if length < 7 || pending.len() < length {
        return None;
    }
    Some(pending.drain(..length).collect())
}

#[cfg(test)]
mod tests {
    use super::take_frame;

    #[test]
    fn a_frame_is_taken_only_when_it_is_whole() {
        let frame = [0xda, 0xda, 1, 0, 0, 0, 16, 0, 16, 3, 1, 0, 0, 0, 0, 7];
        let mut pending = frame[..10].to_vec();
        assert_eq!(take_frame(&mut pending), None);
        pending.extend_from_slice(&frame[10..]);
        pending.extend_from_slice(&frame[..3]);
        assert_eq!(take_frame(&mut pending), Some(frame.to_vec()));
        assert_eq!(pending, frame[..3]);
    }
}
