//! `balancer explain http`.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use clap::Args;

use crate::cli::table::{percent, table};
use crate::cli::{Instance, OTHER_ANSWER, show};
use crate::control::{Answer, Request};
use crate::http::explain::{Explanation, Outcome, Standing};

/// What becomes of a request to a service with an [[http]], step by step
#[derive(Args)]
pub struct Http {
    /// Its method
    method: String,
    /// What it asks for: `http://www.example.com/banking/`
    url: String,
    /// The client's address
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Http {
    pub fn run(&self, instance: &Instance) -> Result<()> {
        let request = Request::Explain {
            method: self.method.clone(),
            url: self.url.clone(),
            client: self.client,
        };
        match instance.ask(&request)? {
            Answer::Explained(explanation) => show(self.json, &*explanation, text),
            _ => bail!(OTHER_ANSWER),
        }
    }
}

fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    for step in &explanation.steps {
        text += &format!("  {:<5} {}\n", step.step, step.text);
    }
    if !explanation.servers.is_empty() {
        let head = ["server", "load", "dedicated", "ready"];
        let rows: Vec<_> = explanation.servers.iter().map(row).collect();
        text += &table(&head, &rows, &[1]);
    }
    let server = explanation.server.as_deref().unwrap_or_default();
    let verdict = match explanation.verdict {
        Outcome::Here => format!("here: the web server of {server} answers it"),
        Outcome::Relay => format!("relay: {server} answers it, through this server"),
        Outcome::Handoff => format!("handoff: the connection moves to {server}, which answers it"),
        Outcome::Redirect => format!("redirect: the client is sent to {server}"),
        Outcome::Refuse => format!("refused with {}", explanation.status.unwrap_or_default()),
    };
    text + &format!("verdict: {verdict} ({})\n", explanation.reason)
}

fn row(server: &Standing) -> Vec<String> {
    let yes = |is| if is { "yes" } else { "no" }.to_owned();
    let own = if server.own { " (this one)" } else { "" };
    vec![
        format!("{}{own}", server.name),
        percent(server.load),
        yes(server.dedicated),
        yes(server.ready),
    ]
}
