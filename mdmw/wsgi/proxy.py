"""The pipeline `proxy` as a module, for servers that import `mdmw.wsgi.proxy:application`."""

from mdmw.wsgi.pipelines import load_or_exit

application = load_or_exit("proxy")
