//! Running a command that is a Kafka client, on one executor of the runtime.

use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use corelog_net::client::{Client, ClientOptions, RetryOptions};
use corelog_runtime::shards::{self, ShardContext, stop_signal};
use futures_lite::future;

use crate::cli::Connect;

/// Connects, and runs `command` to its end.
pub(crate) fn with_client<F>(
    connect: Connect,
    on_signal: OnSignal,
    command: impl Fn(Client) -> F + Send + Clone + 'static,
) -> Result<ExitCode>
where
    F: Future<Output = Result<ExitCode>> + 'static,
{
    on_executor(on_signal, move || {
        let (connect, command) = (connect.clone(), command.clone());
        async move {
            let mut options = ClientOptions::new([connect.bootstrap]);
            options.retry = RetryOptions { give_up_after: connect.timeout, ..options.retry };
            options.connect_timeout = options.connect_timeout.min(connect.timeout);
            let stopped = async {
                stop_signal().wait().await;
                Ok(None)
            };
            let connected = async { Client::connect(options).await.map(Some) };
            match future::or(connected, stopped).await? {
                Some(client) => command(client).await,
                None => Ok(ExitCode::from(INTERRUPTED)),
            }
        }
    })
}

/// Exit code of a command that SIGINT or SIGTERM ended, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// What SIGINT and SIGTERM do to a command; the runtime has taken their usual effect away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// They end it.
    Ends,
    /// It looks out for them itself, to end in order.
    Handles,
}

/// Runs a command on an executor of its own.
pub(crate) fn on_executor<F>(
    on_signal: OnSignal,
    command: impl Fn() -> F + Send + Clone + 'static,
) -> Result<ExitCode>
where
    F: Future<Output = Result<ExitCode>> + 'static,
{
    let outcome = Arc::new(Mutex::new(None));
    let place = Arc::clone(&outcome);
    let options = shards::Options { shards: 1, ..shards::Options::default() };
    shards::run(options, move |_: ShardContext<(), ()>| {
        let (command, place) = (command.clone(), Arc::clone(&place));
        async move {
            let stopped = async {
                stop_signal().wait().await;
                Ok(ExitCode::from(INTERRUPTED))
            };
            let result = match on_signal {
                OnSignal::Ends => future::or(command(), stopped).await,
                OnSignal::Handles => command().await,
            };
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            Ok::<(), std::convert::Infallible>(())
        }
    })?;
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.take().context("the executor was stopped before the command ended")?
}
