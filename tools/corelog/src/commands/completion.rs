//! `corelog completion`: the script of a shell, made from what can be typed.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::{Cli, Completion, ShellArgument};
use crate::out::print_bytes;

pub(crate) fn run(arguments: &Completion) -> Result<ExitCode> {
    print_bytes(&script(arguments.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: ShellArgument) -> Vec<u8> {
    let shell = match shell {
        ShellArgument::Bash => Shell::Bash,
        ShellArgument::Zsh => Shell::Zsh,
        ShellArgument::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "corelog", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_every_command() {
        for shell in [ShellArgument::Bash, ShellArgument::Zsh, ShellArgument::Fish] {
            let script = String::from_utf8(script(shell)).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?}: {}", command.get_name());
            }
            assert!(script.contains("reset-offsets") && script.contains("commit-interval"), "{shell:?}");
        }
    }
}
