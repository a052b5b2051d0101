# What CI runs.
check:
    bash .ci/run

# The shipped demo.
demo:
    cargo run --release --example mae_pretrain

# candlelight beside PyTorch; needs benches/peers/requirements.txt.
bars:
    python benches/peers/mae_step.py
