//! Bodies on their way through: a piece at a time, never whole.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::link::Link;
use super::pool::Home;
use super::watch::{InFlight, Watch};
use crate::cluster::Timestamp;
use crate::exchange::clock;

/// Why a body ends too early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side broke off, or what came is no HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// Nothing more came for so long.
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// Waits for something, but not for longer than this.
struct Timer {
    patience: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The body of a request.
pub enum RequestBody {
    /// There is none.
    Empty,
    /// What the client sends.
    Stream(Box<Upload>),
    /// This server's own, until it was sent.
    Whole(Option<Bytes>),
}

/// What a client sends.
pub struct Upload {
    body: Incoming,
    timer: Timer,
    watch: Arc<Watch>,
    progress: Arc<Progress>,
}

/// How an upload goes.
pub struct Progress {
    /// When some of it went last, in nanoseconds.
    moved: AtomicU64,
    /// The client is waited for, which has a limit of its own.
    waiting: AtomicBool,
}

/// The body of an answer, and what ends with it.
pub struct Answer {
    source: Source,
    flight: Option<InFlight>,
}

enum Source {
    Text(Option<Bytes>),
    Link(Box<Download>),
}

/// What a web server sends, and the connection that it comes by.
struct Download {
    body: Incoming,
    timer: Timer,
    link: Option<Link>,
    home: Option<Home>,
    /// All of the body has come.
    complete: bool,
}

impl RequestBody {
    /// With no longer pause than `patience`. `watch` learns of one that isn't read to its end.
    pub fn new(body: Incoming, patience: Duration, watch: &Arc<Watch>) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream(Box::new(Upload {
            body,
            timer: Timer::new(patience),
            watch: watch.clone(),
            progress: Arc::new(Progress {
                moved: AtomicU64::new(clock::monotonic().0),
                waiting: AtomicBool::new(false),
            }),
        }))
    }

    /// How it goes, if there is one.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty | Self::Whole(_) => None,
            Self::Stream(upload) => Some(upload.progress.clone()),
        }
    }
}

impl Progress {
    /// How long an answer may still take that may take so long after the last of the request.
    pub fn left(&self, patience: Duration) -> Duration {
        if self.waiting.load(Relaxed) {
            return patience;
        }
        let moved = Timestamp(self.moved.load(Relaxed));
        patience.saturating_sub(clock::monotonic().since(moved))
    }
}

impl RequestBody {
    /// What of it is here already goes into `bytes`.
    pub async fn drain(&mut self, bytes: &mut Vec<u8>) {
        poll_fn(|context| {
            while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *self).poll_frame(context) {
                if let Ok(data) = frame.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.waiting.store(false, Relaxed);
        if !self.body.is_end_stream() {
            self.watch.on_unread();
        }
    }
}

impl Answer {
    /// A short text.
    pub fn text(text: impl Into<Bytes>, flight: InFlight) -> Self {
        flight.on_offer(true);
        Self {
            source: Source::Text(Some(text.into())),
            flight: Some(flight),
        }
    }

    /// Nothing, of a request that is not over with it.
    pub fn nothing() -> Self {
        Self {
            source: Source::Text(None),
            flight: None,
        }
    }

    /// What comes by `link`, which goes back to its `home` when all of it is there. Without a link something else drives the
    /// connection. `patience`: the longest pause.
    pub fn stream(
        body: Incoming,
        link: Option<Link>,
        home: Option<Home>,
        patience: Duration,
        flight: InFlight,
    ) -> Self {
        flight.on_offer(true);
        Self {
            source: Source::Link(Box::new(Download {
                timer: Timer::new(patience),
                complete: body.is_end_stream(),
                body,
                link,
                home,
            })),
            flight: Some(flight),
        }
    }

    /// What answers HEAD has no body, and a text of this server's own would be one.
    pub fn leave_text(&mut self) {
        if let Source::Text(text) = &mut self.source {
            *text = None;
        }
    }

    /// Lets go of the connection, if nothing more comes by it.
    pub fn settle(&mut self, context: &mut Context<'_>) {
        if let Source::Link(download) = &mut self.source
            && download.complete
        {
            // If not now, then when the next frame is asked for.
            let _ = download.release(context);
        }
    }
}

impl Timer {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            sleep: None,
        }
    }

    /// Something came.
    fn restart(&mut self) {
        self.sleep = None;
    }

    /// Nothing came.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let patience = self.patience;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(patience)));
        sleep
            .as_mut()
            .poll(context)
            .map(|()| BodyError::Stalled(patience))
    }
}

impl Download {
    /// Lets go of the connection when nothing more goes by it. A web server may answer before it has all of the request; until
    /// it has, the answer isn't over.
    fn release(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(());
        };
        let ready = link.drive(context);
        if !ready && !link.is_over() && self.timer.poll(context).is_pending() {
            return Poll::Pending;
        }
        if let (Some(link), true) = (self.link.take(), ready)
            && let Some(home) = self.home.take()
        {
            home.put(link);
        }
        Poll::Ready(())
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.complete {
            return self.release(context).map(|()| None);
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending()
            && let Some(link) = &mut self.link
        {
            // hyper reads a body only once it has been asked for.
            link.drive(context);
            polled = Pin::new(&mut self.body).poll_frame(context);
        }
        let Poll::Ready(frame) = polled else {
            return self.timer.poll(context).map(|error| Some(Err(error)));
        };
        self.timer.restart();
        self.complete = frame.is_none() || self.body.is_end_stream();
        match frame {
            None => self.release(context).map(|()| None),
            Some(frame) => {
                if self.complete {
                    // If not now, then when the next frame is asked for.
                    let _ = self.release(context);
                }
                Poll::Ready(Some(frame.map_err(BodyError::Broken)))
            }
        }
    }

    fn is_over(&self) -> bool {
        self.link.is_none() && self.complete
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let upload = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(Frame::data).map(Ok)),
            Self::Stream(upload) => upload,
        };
        let polled = Pin::new(&mut upload.body).poll_frame(context);
        upload.progress.waiting.store(polled.is_pending(), Relaxed);
        let Poll::Ready(frame) = polled else {
            return upload.timer.poll(context).map(|error| Some(Err(error)));
        };
        upload.timer.restart();
        upload.progress.moved.store(clock::monotonic().0, Relaxed);
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(upload) => upload.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(upload) => upload.body.size_hint(),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let answer = self.get_mut();
        let polled = match &mut answer.source {
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Link(download) => download.poll_frame(context),
        };
        if let Some(flight) = &answer.flight {
            // What comes next is asked for when the client has taken this.
            flight.on_offer(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Link(download) => download.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Link(download) => download.body.size_hint(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let complete = match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Link(download) => download.complete,
        };
        if let Some(flight) = self.flight.take() {
            flight.end(complete);
        }
    }
}
