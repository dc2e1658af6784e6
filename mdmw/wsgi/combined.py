"""The pipeline `combined` as a module, for servers that import `mdmw.wsgi.combined:application`."""

from mdmw.wsgi.pipelines import load_or_exit

application = load_or_exit("combined")
