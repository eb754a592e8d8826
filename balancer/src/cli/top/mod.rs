//! `balancer top`: a live view.

mod rates;
mod screen;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use self::rates::Rates;
use super::Instance;
use crate::control::status::Status;
use crate::exchange::clock;

/// From one look at the daemon to the next.
const REFRESH: Duration = Duration::from_secs(1);

/// The longest wait for a key: signals are noticed after it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The terminal in the state that a full-screen program needs. It is as it was when this is dropped, and after a panic.
struct Screen(DefaultTerminal);

/// What is shown.
struct View {
    status: Status,
    rates: Rates,
    /// Why there is nothing newer, if there isn't.
    stale: Option<String>,
}

/// Shows how the daemon is until q is pressed or a signal comes.
pub fn run(instance: &Instance) -> Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "`balancer top` needs a terminal: `balancer status` prints once, with --json for programs"
        );
    }
    // Where there is no daemon, that is said on the terminal as it is.
    let mut view = View {
        status: instance.status()?,
        rates: Rates::default(),
        stale: None,
    };
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let mut screen = Screen(ratatui::try_init().context("cannot use this terminal")?);
    let mut seen = clock::monotonic();
    loop {
        screen.0.draw(|frame| screen::draw(frame, &view))?;
        while clock::monotonic().since(seen) < REFRESH {
            if ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            if event::poll(PATIENCE)? {
                match event::read()? {
                    Event::Key(key) if ends(key) => return Ok(()),
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
        }
        let now = clock::monotonic();
        if now.since(seen) >= REFRESH {
            view.update(instance.status(), now.since(seen));
            seen = now;
        }
    }
}

impl View {
    fn update(&mut self, status: Result<Status>, passed: Duration) {
        match status {
            Ok(status) => {
                self.rates = Rates::between(&self.status, &status, passed);
                self.status = status;
                self.stale = None;
            }
            Err(error) => self.stale = Some(format!("{error:#}")),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn ends(key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
