//! What starts runs beside the API: each happening starts one run, however often and by however many ways it is told.

mod inbox;
