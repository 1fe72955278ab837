//! What runs inside the machine whose power is cut: see `powercuts::guest`.

fn main() {
    towline_tests::powercuts::guest::main();
}
