//! What flows besides requests: what others publish and somebody here watches, and what this box
//! says by itself.

/// Watches what others publish.
pub trait Lookout: Send + Sync {
    /// Takes what came from `source`, in the spelling of the transport that brings it.
    ///
    /// Threads: the transport's, so it never waits: what is too much is dropped and counted.
    fn hear(&self, source: &str, payload: &[u8]);
}

/// Something that this box says without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Something happened.
    Event {
        /// What kind of thing.
        kind: String,
        /// JSON text.
        body: String,
    },
    /// How something stands, until it is said anew. It holds for whoever comes later, too.
    State {
        /// What kind of thing.
        kind: String,
        /// Which one of them.
        name: String,
        /// JSON text.
        body: String,
    },
}

/// Where news come from, for the transport that tells them.
#[derive(Debug)]
pub struct NewsFeed(flume::Receiver<News>);

/// Where news go.
#[derive(Debug, Clone)]
pub struct NewsSink {
    news: flume::Sender<News>,
    /// The other end as well, to make room.
    waiting: flume::Receiver<News>,
}

/// Both ends of a queue for at most `news_max` news.
pub fn news_pair(news_max: usize) -> (NewsSink, NewsFeed) {
    let (news, waiting) = flume::bounded(news_max.max(1));
    (NewsSink { news, waiting: waiting.clone() }, NewsFeed(waiting))
}

impl NewsSink {
    /// Says something, without waiting. Whether it took the place of something older that nobody
    /// had heard yet.
    pub fn tell(&self, news: News) -> bool {
        let mut pushed_out = false;
        let mut news = news;
        loop {
            match self.news.try_send(news) {
                // It cannot be disconnected: both ends are here.
                Ok(()) | Err(flume::TrySendError::Disconnected(_)) => return pushed_out,
                Err(flume::TrySendError::Full(back)) => {
                    pushed_out |= self.waiting.try_recv().is_ok();
                    news = back;
                }
            }
        }
    }
}

impl NewsFeed {
    /// The next news; never comes back where nothing more can come. Dropping the future loses
    /// nothing.
    pub async fn next(&self) -> News {
        match self.0.recv_async().await {
            Ok(news) => news,
            Err(_) => std::future::pending().await,
        }
    }

    /// What waits, without waiting.
    pub fn try_next(&self) -> Option<News> {
        self.0.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str) -> News {
        News::Event { kind: kind.into(), body: "{}".into() }
    }

    #[test]
    fn what_nobody_hears_gives_way_to_what_is_newer() {
        let (sink, feed) = news_pair(2);
        assert_eq!([sink.tell(event("1")), sink.tell(event("2"))], [false, false]);
        assert!(sink.tell(event("3")));
        assert_eq!(feed.try_next(), Some(event("2")));
        assert_eq!(feed.try_next(), Some(event("3")));
        assert_eq!(feed.try_next(), None);
    }
}
