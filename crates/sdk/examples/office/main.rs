//! One office of a bank:
//!
//! ```sh
//! cargo run -p settle-sdk --all-features --example office -- north 127.0.0.1:9001 /tmp/north.db 127.0.0.1:8091 127.0.0.1:8191
//! ```
//! opens the office `north` at that address, with its accounts in that file, joined to these coordinators.

mod office;

use settle_sdk::Options;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, file, coordinators @ ..] = arguments.as_slice() else {
        return Err("usage: office <name> <address> <file> <coordinator>…".into());
    };
    let options = Options::new(coordinators, name);
    let office = office::Office::open(name, file.as_ref(), options).await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("office {name} listens at http://{}", listener.local_addr()?);
    let stop = async {
        // An error means that nobody can ask for the stop.
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, office.routes())
        .with_graceful_shutdown(stop)
        .await?;
    if !office.close().await {
        println!("what still runs is called again when office {name} is back");
    }
    Ok(())
}
