//! The step kinds of this binary, and what each of them works with.

use std::sync::Arc;

use crate::connections::Connections;
use crate::geo::Geo;
use crate::http::Http;
use crate::mail::Mailer;
use crate::objects::Objects;
use crate::pipeline::{Kind, Kinds};
use crate::steps::csv_import::{CsvImport, CsvImportDeps};
use crate::steps::email_send::{EmailSend, EmailSendDeps};
use crate::steps::file_check::FileCheck;
use crate::steps::geo_lookup::{GeoLookup, GeoLookupDeps};
use crate::steps::http_request::HttpRequest;
use crate::steps::image_resize::{ImageResize, ImageResizeDeps, Images};
use crate::steps::notify_fanout::{NotifyFanout, NotifyFanoutDeps};
use crate::steps::report_query::ReportQuery;
use crate::steps::sql::{SqlBatch, SqlExecute};
use crate::steps::wait::Wait;
use crate::steps::{RegisteredStep, Step, describe, register};

/// What step kinds may work with.
#[derive(Clone)]
pub struct Services {
    /// Files in any bucket.
    pub objects: Objects,
    /// The databases that pipelines work on.
    pub connections: Connections,
    /// Outgoing mail.
    pub mailer: Mailer,
    /// Outgoing calls.
    pub http: Http,
    /// Geo look-ups.
    pub geo: Geo,
    /// Memory and cores for pictures.
    pub images: Images,
}

/// A list of step kinds.
#[derive(Clone, Default)]
pub struct StepRegistry(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    kind: Arc<dyn Kind>,
    register: Arc<dyn Fn(&Services) -> RegisteredStep + Send + Sync>,
}

impl StepRegistry {
    /// Adds a kind; `deps` takes what it needs from the services.
    #[must_use]
    pub fn with<S: Step>(mut self, deps: fn(&Services) -> S::Deps) -> Self {
        let entry = Entry { kind: describe::<S>(), register: Arc::new(move |services| register::<S>(deps(services))) };
        self.0.push(entry);
        self
    }

    /// The kinds as the language sees them. Nothing is opened for that.
    pub fn catalog(&self) -> Kinds {
        Kinds(self.0.iter().map(|entry| entry.kind.clone()).collect())
    }

    /// The kinds with the services they work with.
    pub fn registered(&self, services: &Services) -> Vec<RegisteredStep> {
        self.0.iter().map(|entry| (entry.register)(services)).collect()
    }
}

/// The step kinds that ship. A new kind is one line here.
pub fn step_kinds() -> StepRegistry {
    StepRegistry::default()
        .with::<CsvImport>(|services| CsvImportDeps {
            objects: services.objects.clone(),
            connections: services.connections.clone(),
        })
        .with::<EmailSend>(|services| EmailSendDeps {
            mailer: services.mailer.clone(),
            objects: services.objects.clone(),
        })
        .with::<FileCheck>(|services| services.objects.clone())
        .with::<GeoLookup>(|services| GeoLookupDeps {
            geo: services.geo.clone(),
            connections: services.connections.clone(),
        })
        .with::<HttpRequest>(|services| services.http.clone())
        .with::<ImageResize>(|services| ImageResizeDeps {
            images: services.images.clone(),
            objects: services.objects.clone(),
        })
        .with::<NotifyFanout>(|services| NotifyFanoutDeps {
            connections: services.connections.clone(),
            mailer: services.mailer.clone(),
            http: services.http.clone(),
        })
        .with::<ReportQuery>(|services| services.connections.clone())
        .with::<SqlBatch>(|services| services.connections.clone())
        .with::<SqlExecute>(|services| services.connections.clone())
        .with::<Wait>(|_| ())
}
