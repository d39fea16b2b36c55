use tokio::sync::watch;

/// Tells many tasks to stop. Dropping it tells them too, so that none outlives its owner unnoticed.
#[derive(Debug)]
pub struct StopHandle {
    sender: watch::Sender<bool>,
}

/// One task's ear for a [`StopHandle`].
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
}

impl StopHandle {
    pub fn new() -> (StopHandle, Stop) {
        let (sender, receiver) = watch::channel(false);
        (StopHandle { sender }, Stop { receiver })
    }

    pub fn stop(&self) {
        self.sender.send_replace(true);
    }
}

impl Stop {
    /// Resolves once the handle says stop or is gone. Cancel-safe.
    pub async fn stopped(&mut self) {
        // An error means that the handle was dropped, which is a stop as well.
        let _ = self.receiver.wait_for(|stopped| *stopped).await;
    }
}
