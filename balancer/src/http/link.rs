//! A connection to a web server or a peer's module.
//!
//! The task that waits for an answer drives its connection itself, so that a request takes no task, no channel and no wake-up
//! more than the client's connection has anyway.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::stream::{Transport, Upstream};

/// Most bytes of an answer's head. It may have 100 headers: for more hyper would take memory for each answer.
const ANSWER_HEAD_MAX: usize = 128 * 1024;

/// An open connection, for one request at a time. It changes hands several times a request, so it is boxed.
pub struct Link(Box<Open>);

struct Open {
    sender: SendRequest<RequestBody>,
    driver: Connection<TokioIo<Upstream>, RequestBody>,
    over: bool,
    heard: Arc<AtomicBool>,
}

/// Why there is no answer.
pub struct Lost {
    /// What happened.
    pub error: hyper::Error,
    /// The request, if nothing of it was sent.
    pub request: Option<Request<RequestBody>>,
    /// Something of an answer came.
    pub heard: bool,
}

impl Link {
    /// Speaks HTTP/1.1 over `transport`.
    ///
    /// # Errors
    ///
    /// hyper names none that could happen here.
    pub async fn open(transport: Transport) -> Result<Self, hyper::Error> {
        let heard = Arc::new(AtomicBool::new(false));
        let stream = Upstream::new(transport, heard.clone());
        let (sender, driver) = http1::Builder::new()
            .max_header_size(ANSWER_HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self(Box::new(Open {
            sender,
            driver,
            over: false,
            heard,
        })))
    }

    /// Moves bytes. Whether the connection is good for another request.
    pub fn drive(&mut self, context: &mut Context<'_>) -> bool {
        let open = &mut *self.0;
        open.over = open.over || Pin::new(&mut open.driver).poll(context).is_ready();
        !open.over && open.sender.is_ready()
    }

    /// Whether it is closed.
    pub fn is_over(&self) -> bool {
        self.0.over
    }

    /// Sends a request, waits for the head of its answer.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no HTTP.
    pub async fn ask(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Lost> {
        // A connection that was just opened takes a request once it has been driven.
        poll_fn(|context| Poll::Ready(self.drive(context))).await;
        let open = &mut *self.0;
        open.heard.store(false, Ordering::Relaxed);
        let mut answer = pin!(open.sender.try_send_request(request));
        let answer = poll_fn(|context| {
            open.over = open.over || Pin::new(&mut open.driver).poll(context).is_ready();
            answer.as_mut().poll(context)
        });
        answer.await.map_err(|mut error: TrySendError<_>| Lost {
            request: error.take_message(),
            error: error.into_error(),
            heard: open.heard.load(Ordering::Relaxed),
        })
    }
}
