//! `zonda tool`: what servers say of their tools, and what of it the operator approves.
//!
//! Names, descriptions and schemas are foreign text: they are printed escaped, so that none of them
//! moves a cursor or hides a line from the person who decides.

use std::io::Write;

use firmware_config::{McpApproval, McpServerConfig, McpToolConfig, Profile};
use tools::mcp::{Approvals, Grant, Listed, Standing, probe};

use crate::error::AssembleError;
use crate::plugins::{check_function, server_config};

/// Prints how every tool that the configuration grants stands with its server.
pub(crate) fn list(profile: &Profile, output: &mut dyn Write) -> Result<(), AssembleError> {
    let approvals = Approvals::load(&profile.tools.approvals_file)?;
    for server in &profile.mcp_servers {
        writeln!(output, "{}: {}", server.name, server.command.display())?;
        let config = server_config(server);
        match probe(&config) {
            Err(error) => writeln!(output, "  {}", safe(&error.to_string()))?,
            Ok(listed) => {
                for (tool, grant) in server.tools.iter().zip(&config.grants) {
                    let standing =
                        Standing::of(&server.name, grant, &listed, &approvals, check_function);
                    print(output, tool, &listed, &standing)?;
                }
                let granted = |tool: &Listed| server.tools.iter().any(|one| one.name == tool.name);
                let others: Vec<String> = listed
                    .iter()
                    .filter(|tool| !granted(tool))
                    .map(|tool| safe(&tool.name))
                    .collect();
                if !others.is_empty() {
                    writeln!(output, "  not granted: {}", others.join(", "))?;
                }
            }
        }
    }
    Ok(())
}

fn print(
    output: &mut dyn Write,
    tool: &McpToolConfig,
    listed: &[Listed],
    standing: &Standing,
) -> Result<(), AssembleError> {
    let state = match standing {
        Standing::Approved(_) => "approved".to_owned(),
        Standing::New => "new".to_owned(),
        Standing::Changed => "changed since it was approved".to_owned(),
        Standing::Missing => "not listed by its server".to_owned(),
        Standing::Ambiguous => "listed twice".to_owned(),
        Standing::Unfit(reason) => format!("unfit: {}", safe(reason)),
    };
    writeln!(output, "  {}  {state}", tool.function)?;
    let Some(now) = listed.iter().find(|one| one.name == tool.name) else {
        return Ok(());
    };
    let asks = match (tool.approval, now.reads_only) {
        (McpApproval::Never, _) => "runs without asking",
        (McpApproval::Client, true) => "runs without asking: it states that it only reads",
        (McpApproval::Client, false) | (McpApproval::Always, _) => "asks before each call",
    };
    writeln!(output, "    {asks}")?;
    writeln!(output, "    sha256 {}", now.sha256())?;
    writeln!(output, "    description: {}", safe(&now.description))?;
    writeln!(output, "    parameters: {}", safe(&now.parameters.to_string()))?;
    Ok(())
}

/// Approves the named tools of a server, or all that are granted, as they are listed now.
pub(crate) fn approve(
    profile: &Profile,
    server: &str,
    names: &[String],
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let config = find(profile, server)?;
    let server_config = server_config(config);
    let is_named = |tool: &McpToolConfig| names.is_empty() || names.contains(&tool.name);
    for name in names {
        if !config.tools.iter().any(|tool| tool.name == *name) {
            let granted = config.tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>();
            return Err(refused(format!(
                "mcp_servers: {server} grants no tool {name:?}; it grants {}",
                granted.join(", ")
            )));
        }
    }
    let file = &profile.tools.approvals_file;
    let mut approvals = Approvals::load(file)?;
    let listed = probe(&server_config)?;
    let pairs = config.tools.iter().zip(&server_config.grants);
    for (tool, grant) in pairs.filter(|(tool, _)| is_named(tool)) {
        let found = fit(server, grant, &listed, &approvals)?;
        approvals.approve(server, found);
        print(output, tool, &listed, &Standing::Approved(found.as_approved()))?;
    }
    approvals.save(file)?;
    Ok(())
}

/// The tool as it is listed, if it can be offered at all.
fn fit<'a>(
    server: &str,
    grant: &Grant,
    listed: &'a [Listed],
    approvals: &Approvals,
) -> Result<&'a Listed, AssembleError> {
    let reason = match Standing::of(server, grant, listed, approvals, check_function) {
        Standing::Missing => "its server does not list it".to_owned(),
        Standing::Ambiguous => "its server lists it twice".to_owned(),
        Standing::Unfit(reason) => safe(&reason),
        _ => match listed.iter().find(|tool| tool.name == grant.name) {
            Some(tool) => return Ok(tool),
            None => "its server does not list it".to_owned(),
        },
    };
    let name = &grant.name;
    Err(AssembleError::Input {
        message: format!("{server}: {name} cannot be approved: {reason}; nothing was approved"),
    })
}

fn find<'a>(profile: &'a Profile, server: &str) -> Result<&'a McpServerConfig, AssembleError> {
    let servers = &profile.mcp_servers;
    servers.iter().find(|config| config.name == server).ok_or_else(|| {
        let names: Vec<&str> = servers.iter().map(|config| &*config.name).collect();
        refused(match names.is_empty() {
            true => "mcp_servers: the configuration names no server".to_owned(),
            false => format!("mcp_servers: no server {server:?}; there are {}", names.join(", ")),
        })
    })
}

fn refused(message: String) -> AssembleError {
    AssembleError::Configuration { message }
}

/// On one line, without anything that a terminal obeys.
fn safe(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}
