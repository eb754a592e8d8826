//! How it looks.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};

use super::View;
use crate::cli::drain;
use crate::cli::table::{duration, percent};
use crate::control::status::{Peer, Service, Status};

/// Cells of a bar that means 100 %.
const BAR: u32 = 20;

pub fn draw(frame: &mut Frame, view: &View) {
    let status = &view.status;
    let head = head(view);
    let verdicts = verdicts(view);
    let [top, services, peers, packets, foot] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(status.services.len() as u16 + 2),
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    frame.render_widget(
        table(
            "services",
            [
                "service",
                "load",
                "",
                "open",
                "kept/s",
                "steered/s",
                "guests/s",
            ],
            status.services.iter().map(|known| service(view, known)),
        ),
        services,
    );
    frame.render_widget(
        table(
            "peers",
            [
                "peer",
                "load",
                "",
                "report",
                "flows/s",
                "packets/s",
                "status",
            ],
            status.peers.iter().map(|known| peer(view, known)),
        ),
        peers,
    );
    frame.render_widget(
        Paragraph::new(verdicts).block(block("packets a second, by what became of them")),
        packets,
    );
    frame.render_widget(Line::from("q ends").dim(), foot);
}

fn head(view: &View) -> Vec<Line<'static>> {
    let status = &view.status;
    let mut lines = vec![Line::from(format!(
        "{}: load {}, up {}, a report each {}",
        status.name,
        percent(status.load()),
        duration(status.uptime_ms),
        duration(status.period_ms)
    ))];
    if let Some(stale) = &view.stale {
        lines.push(Line::from(format!("OLD: {stale}")).fg(Color::Red).bold());
    }
    if let Some(drain) = &status.drain {
        let text = format!(
            "DRAINING for {}; left: {}",
            duration(drain.for_ms),
            drain::left(drain)
        );
        lines.push(Line::from(text).fg(Color::Yellow));
    }
    for warning in &status.warnings {
        lines.push(Line::from(format!("WARNING: {warning}")).fg(Color::Red));
    }
    lines
}

fn service(view: &View, service: &Service) -> [String; 7] {
    let rate = |sort| format!("{:.0}", view.rates.flows(&service.name, sort));
    let state = if service.healthy { "" } else { " DOWN" };
    [
        format!("{}{state}", service.name),
        percent(service.load),
        bar(service.load),
        (service.connections + service.pending).to_string(),
        rate("kept"),
        rate("steered_"),
        rate("guest"),
    ]
}

fn peer(view: &View, peer: &Peer) -> [String; 7] {
    let load = peer.services.iter().map(|service| service.load).max();
    let (flows, packets) = view.rates.peers.get(&peer.id).copied().unwrap_or_default();
    let draining = if peer.draining { ", draining" } else { "" };
    [
        peer.name.clone(),
        load.map(percent).unwrap_or_default(),
        load.map(bar).unwrap_or_default(),
        duration(peer.age_ms),
        format!("{flows:.0}"),
        format!("{packets:.0}"),
        format!("{}{draining}", peer.status.name()),
    ]
}

/// A line for each reason that there were packets for, the services' sums.
fn verdicts(view: &View) -> Vec<Line<'static>> {
    let Status {
        services: known, ..
    } = &view.status;
    let Some(first) = known.first() else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for what in first.packets.keys() {
        let total: u64 = known
            .iter()
            .filter_map(|service| service.packets.get(what))
            .sum();
        let services = view.rates.services.values();
        let rates = services.filter_map(|service| service.get(what));
        let rate = rates.fold(0.0, |sum, rate| sum + rate);
        if total > 0 {
            let what = what.replace('_', " ");
            lines.push(Line::from(format!(
                "{what:<20} {rate:>10.0}   of {total} in all"
            )));
        }
    }
    lines
}

fn table<'a>(
    title: &'a str,
    head: [&'a str; 7],
    rows: impl Iterator<Item = [String; 7]>,
) -> Table<'a> {
    let widths = [
        Constraint::Min(14),
        Constraint::Length(9),
        Constraint::Length(BAR as u16),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(18),
    ];
    let rows = rows.map(|cells| Row::new(cells.map(Cell::from)));
    Table::new(rows, widths)
        .header(Row::new(head).style(Style::new().dim()))
        .block(block(title))
}

fn block(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(title)
}

/// A load as a bar, full at 100 %; what is above that ends in a mark.
fn bar(load: u32) -> String {
    let cells = (u64::from(load) * u64::from(BAR)).div_ceil(10_000);
    match usize::try_from(cells) {
        Ok(cells) if cells <= BAR as usize => "█".repeat(cells),
        _ => "█".repeat(BAR as usize - 1) + "»",
    }
}

#[cfg(test)]
mod tests;
