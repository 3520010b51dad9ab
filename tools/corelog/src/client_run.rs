//! Running a command that is a Kafka client, on one executor of the runtime.

use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use corelog_net::client::{Client, ClientOptions, RetryOptions};
use corelog_runtime::shards::{self, ShardContext};

use crate::cli::Connect;

/// Connects, and runs `command` to its end.
pub(crate) fn with_client<F>(
    connect: Connect,
    command: impl Fn(Client) -> F + Send + Clone + 'static,
) -> Result<ExitCode>
where
    F: Future<Output = Result<ExitCode>> + 'static,
{
    on_executor(move || {
        let (connect, command) = (connect.clone(), command.clone());
        async move {
            let mut options = ClientOptions::new([connect.bootstrap]);
            options.retry = RetryOptions { give_up_after: connect.timeout, ..options.retry };
            options.connect_timeout = options.connect_timeout.min(connect.timeout);
            let client = Client::connect(options).await?;
            command(client).await
        }
    })
}

/// Runs a future on an executor of its own.
pub(crate) fn on_executor<T, F>(command: impl Fn() -> F + Send + Clone + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + 'static,
{
    let outcome = Arc::new(Mutex::new(None));
    let place = Arc::clone(&outcome);
    let options = shards::Options { shards: 1, ..shards::Options::default() };
    shards::run(options, move |_: ShardContext<(), ()>| {
        let (command, place) = (command.clone(), Arc::clone(&place));
        async move {
            let result = command().await;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            Ok::<(), std::convert::Infallible>(())
        }
    })?;
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.take().context("the executor was stopped before the command ended")?
}
