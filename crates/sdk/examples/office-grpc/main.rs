//! One office of a bank, behind gRPC:
//!
//! ```sh
//! cargo run -p settle-sdk --all-features --example office-grpc -- north 127.0.0.1:9001 /tmp/north.db 127.0.0.1:8091 127.0.0.1:8191
//! ```
//! opens the office `north` at that address, with its accounts in that file, joined to these coordinators.

mod office;

use settle_sdk::Options;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, file, coordinators @ ..] = arguments.as_slice() else {
        return Err("usage: office-grpc <name> <address> <file> <coordinator>…".into());
    };
    let options = Options::new(coordinators, name);
    let office = office::Office::open(name, file.as_ref(), options).await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("office {name} listens at http://{}", listener.local_addr()?);
    office.serve(listener).await?;
    Ok(())
}
