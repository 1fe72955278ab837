//! What a failure leaves.

use super::process::Site;

/// A site whose folder stays when its owner panics.
#[derive(Debug)]
pub struct Evidence(Option<Site>);

impl Evidence {
    /// Of this site.
    pub fn new(site: Site) -> Self {
        Self(Some(site))
    }
}

impl std::ops::Deref for Evidence {
    type Target = Site;

    fn deref(&self) -> &Site {
        self.0.as_ref().expect("it is there until the end")
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if let (true, Some(site)) = (std::thread::panicking(), self.0.take()) {
            println!("all that is left: {}", site.keep().display());
        }
    }
}
