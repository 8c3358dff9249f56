//! The routes about mails: unsubscribing, suppressed addresses and bounces.

use axum::http::Method;
use axum::routing::{delete, get, post};

use super::openapi::{ApiRoutes, Operation};
use super::{mail_bounces, mail_suppressions, unsubscribe};
use crate::codes;

pub(super) fn mail_routes(routes: ApiRoutes) -> ApiRoutes {
    suppression_routes(unsubscribe_routes(routes)).add_route(
        Method::POST,
        "/v1/mail/bounces",
        post(mail_bounces::receive_bounces),
        Operation::new(
            "reportBounces",
            "Mails that came back, and complaints: messages of mail servers, and webhooks of Amazon SES, Postmark, \
             SendGrid and Mailgun",
        )
        .key_or_token()
        .query_params::<mail_bounces::BounceTokenQuery>()
        .request_body::<mail_bounces::ProviderReport>("application/json")
        .request_body::<mail_bounces::ReportMessage>("*/*")
        .needs_body()
        .json_response::<mail_bounces::BounceResult>(200, "the addresses receive no mails any more")
        .with_errors(&[codes::BOUNCE_INVALID, codes::BOUNCE_UNKNOWN]),
    )
}

fn unsubscribe_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            Method::GET,
            "/u/{token}",
            get(unsubscribe::show_unsubscribe_page),
            Operation::new("showUnsubscribe", "The page of a link to unsubscribe; to look at it changes nothing")
                .response_as::<String>(200, "the page", "text/html")
                .with_errors(&[codes::LINK_NOT_FOUND, codes::TOO_MANY_ATTEMPTS]),
        )
        .add_route(
            Method::POST,
            "/u/{token}",
            post(unsubscribe::unsubscribe),
            Operation::new("unsubscribe", "Unsubscribes the recipient of a link: RFC 8058, and the button of its page")
                .request_body::<unsubscribe::OneClickForm>("application/x-www-form-urlencoded")
                .response_as::<String>(200, "the address gets no more mails of the list", "text/html")
                .with_errors(&[codes::LINK_NOT_FOUND, codes::TOO_MANY_ATTEMPTS]),
        )
}

fn suppression_routes(routes: ApiRoutes) -> ApiRoutes {
    routes
        .add_route(
            Method::GET,
            "/v1/mail/suppressions",
            get(mail_suppressions::list_suppressions),
            Operation::new("listSuppressions", "The addresses that receive no mails, newest first, a page at a time")
                .require_key()
                .query_params::<mail_suppressions::SuppressionQuery>()
                .json_response::<mail_suppressions::SuppressionPage>(200, "a page"),
        )
        .add_route(
            Method::POST,
            "/v1/mail/suppressions",
            post(mail_suppressions::add_suppression),
            Operation::new("addSuppression", "Sends no more mails of a list, or none at all, to an address")
                .require_key()
                .json_body::<mail_suppressions::NewSuppression>()
                .needs_body()
                .json_response::<mail_suppressions::SuppressionView>(201, "the address is suppressed")
                .json_response::<mail_suppressions::SuppressionView>(200, "it was before")
                .with_errors(&[codes::SUPPRESSION_INVALID]),
        )
        .add_route(
            Method::DELETE,
            "/v1/mail/suppressions/{id}",
            delete(mail_suppressions::remove_suppression),
            Operation::new("removeSuppression", "Sends mails to an address again")
                .require_key()
                .json_response::<mail_suppressions::SuppressionView>(200, "what was removed")
                .with_errors(&[codes::SUPPRESSION_NOT_FOUND]),
        )
}
