"""The pipeline `standalone` as a module, for servers that import `mdmw.wsgi.standalone:application`."""

from mdmw.wsgi.pipelines import load_or_exit

application = load_or_exit("standalone")
