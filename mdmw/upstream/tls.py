"""The TLS side of an upstream: TLS 1.2 or newer, CA, client certificate (spec 3.4)."""

import ssl


def client_context(
    ca_file: str | None = None,
    insecure: bool = False,
    client_cert: str | None = None,
    client_key: str | None = None,
) -> ssl.SSLContext:
    """A context that verifies the server's name and chain, unless `insecure` (which wins over a CA).

    Raises OSError or ssl.SSLError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With OpenSSL 3 Python lets a connection end without TLS saying so: a cut would look like the end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    if client_cert:
        # OpenSSL would ask for the passphrase of an encrypted key on the terminal.
        context.load_cert_chain(client_cert, client_key, password="")
    return context
