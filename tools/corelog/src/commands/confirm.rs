//! Asking before something is done that cannot be undone.

use std::io::{BufRead, IsTerminal, Write};
use std::thread;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;

/// Asks on the terminal, beside the executor. Without a terminal nobody can answer: then `refusal`
/// says why nothing is done.
pub(crate) async fn ask(question: String, refusal: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("{refusal}: confirm with --yes");
    }
    let (tell, told) = oneshot::channel();
    thread::Builder::new()
        .name("confirm".to_owned())
        .spawn(move || {
            // Nobody waits any more when the command was interrupted.
            let _ = tell.send(answer(&question));
        })
        .context("cannot start the thread that asks")?;
    Ok(told.await.unwrap_or(Ok(false))?)
}

fn answer(question: &str) -> std::io::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
