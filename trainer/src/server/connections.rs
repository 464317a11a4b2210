//! Connections of one port: how many, how slow they may be, and how they end.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The most connections that are open at once; further ones wait in the system's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// The longest request line and headers, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// The most that is read of or kept for a connection beyond the body that a handler reads, in bytes.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// How long nothing is accepted after the system refused, for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of one port.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    http: http1::Builder,
    idle_timeout: Duration,
    slots: Arc<Semaphore>,
    open: TaskTracker,
    /// Take no more, and end each connection when its request is answered.
    close: CancellationToken,
    /// End them all.
    abort: CancellationToken,
}

impl Connections {
    /// `idle_timeout` is the time from a connection's start, or its last answer, to the end of the next request's
    /// headers, and that in which a client takes nothing of its answer. One limit for all is enough: a client that sends
    /// headers slowly, or does not read, holds no more than one that is idle.
    pub(super) fn new(idle_timeout: Duration) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(idle_timeout)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(MAX_BUFFER_BYTES);
        Self {
            http,
            idle_timeout,
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            open: TaskTracker::new(),
            close: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Takes connections until [`Connections::drain`].
    pub(super) async fn accept(self, listener: TcpListener, router: Router) {
        let accepting = async {
            while let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => self.serve(stream, router.clone(), slot),
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        self.close.run_until_cancelled(accepting).await;
        // Those that the system has accepted already would be reset with the listener.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { return };
            self.serve(stream, router.clone(), slot);
        }
    }

    fn serve(&self, stream: TcpStream, router: Router, slot: OwnedSemaphorePermit) {
        if let Err(error) = self.configure(&stream) {
            tracing::debug!("cannot configure a connection: {error}");
        }
        let connection = self.http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let (close, abort) = (self.close.clone(), self.abort.clone());
        self.open.spawn(async move {
            let _slot = slot;
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => Some(ended),
                () = abort.cancelled() => return,
                () = close.cancelled() => None,
            };
            let ended = match ended {
                Some(ended) => Some(ended),
                None => {
                    connection.as_mut().graceful_shutdown();
                    abort.run_until_cancelled(connection).await
                }
            };
            if let Some(Err(error)) = ended {
                tracing::debug!("a connection ended early: {error}");
            }
        });
    }

    fn configure(&self, stream: &TcpStream) -> io::Result<()> {
        // Answers are written at once, in one piece.
        stream.set_nodelay(true)?;
        // Hyper limits the time in which a request's headers come, but not that in which an answer is taken. The system
        // does, and not only for a client that is gone: since Linux 5.11 also for one that acknowledges every probe, and
        // never makes room for more.
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(stream).set_tcp_user_timeout(Some(self.idle_timeout))?;
        Ok(())
    }

    /// Takes no more connections, lets running requests end for as long as `patience` says, then ends the rest.
    pub(super) async fn drain(&self, patience: Duration) {
        self.close.cancel();
        self.open.close();
        if tokio::time::timeout(patience, self.open.wait()).await.is_err() {
            tracing::warn!(connections = self.open.len(), "not drained in {patience:?}: ending the rest");
            self.abort.cancel();
            self.open.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_never_reads_its_answer_is_let_go_after_the_idle_timeout() {
        let connections = Connections::new(Duration::from_millis(100));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // More than the system takes for a client that does not read.
        let router = Router::new().fallback(async || vec![0_u8; 64 << 20]);
        tokio::spawn(connections.clone().accept(listener, router));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        client.readable().await.unwrap();
        assert_eq!(connections.open.len(), 1);
        connections.open.close();
        let ended = tokio::time::timeout(Duration::from_secs(60), connections.open.wait());
        ended.await.expect("the connection ends within a minute");
    }
}
